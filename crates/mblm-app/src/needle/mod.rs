//! Needles in haystacks: values hidden in long text. The data set `needle` trains a model to find
//! them, `mblm needle` measures how often it does.
//!
//! ```text
//! But in such cases as th[key qxv: 4821]↵ese a good memory is unpardonable. … [key qxv? 4821]↵
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `options` | the options of the data set and their checks |
//! | `hidden` | one sample: text, needles, queries |
//! | `haystack` | the text to hide needles in |
//! | `dataset` | the data set: samples by index |
//! | `found` | measures how many values a model finds, by context length and depth |
//! | `command` | `mblm needle` |
//!
//! ```
//! use mblm::task::TaskRegistry;
//!
//! let mut tasks = TaskRegistry::default();
//! mblm_app::needle::register(&mut tasks);
//! assert!(tasks.get("needle").is_ok());
//! ```

pub(crate) mod command;
mod dataset;
#[cfg(test)]
mod dataset_tests;
mod found;
#[cfg(test)]
mod found_tests;
mod haystack;
mod hidden;
mod options;

use mblm::data::Opener;
use mblm::task::TaskRegistry;

pub use found::{Found, ModelReader, NeedleTest, Reader};
pub use haystack::Haystack;
pub use hidden::Hidden;
pub use options::{LossOn, NeedleOptions, Task};

/// Adds the task `needle`.
pub fn register(tasks: &mut TaskRegistry) {
    let opener = Opener::default();
    tasks.register("needle", move |args| dataset::open(args, &opener));
}
