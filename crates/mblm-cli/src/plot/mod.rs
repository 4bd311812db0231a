//! Pictures of runs: loss curves and learning rates from `loss.csv`. What the file holds is read by the library; how it is
//! drawn is presentation, so it is here, and whoever uses the library builds no drawing code.
//!
//! | file | holds |
//! |---|---|
//! | `curves.rs` | from rows to the curves of a run: units, smoothing, thinning |
//! | `axis.rs` | ranges of axes, linear and logarithmic, and the numbers beside them |
//! | `chart.rs` | the picture: two panels, curves, legend |
//! | `image.rs` | the picture as SVG or PNG |
//! | `sheet.rs` | small pictures with lines of text under them, side by side |

mod axis;
mod chart;
mod curves;
mod image;
mod sheet;

pub(crate) use chart::Picture;
pub(crate) use curves::{Across, Curves, Unit};
pub(crate) use image::Format;
pub(crate) use sheet::{Cell, contact_sheet};
