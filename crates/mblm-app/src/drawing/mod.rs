//! Figures: loss curves and learning rates of runs from `loss.csv`, and tables as heat maps. The
//! library reads the files; the drawing code is here, so that users of the library do not build it.
//!
//! | file | holds |
//! |---|---|
//! | `curves.rs` | turns rows into the curves of a run: units, smoothing, thinning |
//! | `axis.rs` | ranges and marks of linear and logarithmic axes |
//! | `chart.rs` | the figure: two panels, curves, legend |
//! | `heat.rs` | a table as a heat map |
//! | `pen.rs` | size, fonts, colors, and a panel with axes |
//! | `image.rs` | the figure as SVG or PNG |

mod axis;
mod chart;
mod curves;
mod heat;
mod image;
mod pen;

pub(crate) use chart::Figure;
pub(crate) use curves::{Across, Curves, Unit};
pub(crate) use heat::HeatMap;
pub(crate) use image::Format;
pub use image::{encode, register_letters};
pub use pen::FONT;
