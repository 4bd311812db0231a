//! Figures of runs, loss curves and learning rates from `loss.csv`, and of tables, as heat maps. What the file holds is read by the library; how it is
//! drawn is presentation, so it is here, and whoever uses the library builds no drawing code.
//!
//! | file | holds |
//! |---|---|
//! | `curves.rs` | from rows to the curves of a run: units, smoothing, thinning |
//! | `axis.rs` | ranges of axes, linear and logarithmic, and the numbers beside them |
//! | `chart.rs` | the figure: two panels, curves, legend |
//! | `heat.rs` | a table as a heat map |
//! | `pen.rs` | size, letters, colours, and a panel with axes |
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
