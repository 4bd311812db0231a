//! Data set `clevr`: visual questions as bytes (Johnson et al. 2017, and folders of the same
//! layout).
//!
//! A sample is question, image, question, answer, each between special ids, padded to one length.
//! The image is pixels, channel after channel, or the bytes of a JPEG file. [`ClevrOptions`] are
//! the keys of `dataset_args`, named as in the Python package.
//!
//! ```text
//! questions/CLEVR_val_questions.json ──▶ questions ─────────────────────────┐
//! images/val/*.png ──▶ image: decoded, prepared, kept ──────────────────────┴──▶ layout ──▶ Sample
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `options` | the keys and their checks |
//! | `questions`, `kinds`, `answers` | the questions' JSON, types of questions, categorical answers |
//! | `layout` | the order of a sample's ids, and their weights |
//! | `check` | the problems of a split |
//! | `dataset` | the data set |
//! | `task` | the task `clevr`, and the report of a check |
//!
//! [`image`](super::image) prepares the images.
//!
//! Differences from the package: fractional loss weights are kept (the package truncates them to
//! integers); padding has weight 0 (there its weight is the padding id); quality 0 and shift 0 are
//! used as given (there they count as missing).

mod answers;
mod check;
mod dataset;
#[cfg(test)]
mod hostile;
mod kinds;
mod layout;
mod options;
mod paths;
mod questions;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use answers::{ANSWERS, answer_of, class_of};
pub use check::{Longest, Problem, Report, check};
pub use dataset::Clevr;
pub use kinds::QuestionType;
pub use options::{ClevrOptions, TargetMode};
pub use questions::{Question, Questions};
pub use task::{ClevrTask, NAME};
