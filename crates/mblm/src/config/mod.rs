//! Configurations: the model, and its training.
//!
//! | file | holds |
//! |---|---|
//! | `experiment.rs` | [`Experiment`]: the YAML file with its maps `io`, `params`, `train`, `resume`, and its checks |
//! | `io.rs` | [`IoConfig`]: data and outputs |
//! | `train.rs`, `precision.rs`, `decayed.rs` | [`TrainConfig`]: how a model is trained |
//! | `model.rs` | [`Architecture`], [`ModelConfig`], [`EncoderConfig`]: the hierarchy, in YAML and in a model's `config.json` |
//! | `build.rs` | a [`ModelConfig`] made in code |
//! | `count.rs` | [`ParameterCounts`]: parameters of a model that does not exist yet |
//! | `preset.rs` | [`Preset`]: ready-made experiments for training with no configuration file |
//! | `document.rs` | [`Document`]: a configuration of somebody else's keys, read in the same way |
//! | `vocabulary.rs` | [`Vocabulary`]: what a data set must know of a model |
//! | `yaml.rs`, `tree.rs` | text and overrides into a tree of values that know where they were written |
//! | `typed.rs` | typed values from that tree |
//! | `problem.rs` | [`Problem`]: what is wrong with a value, and where it was written |
//! | `lenient.rs`, `written.rs` | numbers and booleans in other spellings, and as the texts that they were written as |
//! | `suggest.rs` | the nearest known name to a misspelled one |
//!
//! Reading goes from text to a tree to typed values to checked values. An error in any of these
//! steps names the file, the line and the key. All keys of the published Python package exist; keys
//! of this project alone are optional.

mod build;
mod count;
mod decayed;
mod document;
mod experiment;
mod io;
mod lenient;
mod model;
mod precision;
mod preset;
mod problem;
pub mod suggest;
mod train;
#[cfg(test)]
mod train_tests;
pub(crate) mod tree;
mod typed;
mod vocabulary;
mod written;
mod yaml;

pub use bytesize::ByteSize;
pub use count::ParameterCounts;
pub use decayed::DecayedParameters;
pub use document::{Document, to_yaml};
pub use experiment::{Experiment, Params, ResumeConfig, Summary};
pub use io::IoConfig;
pub use model::{Architecture, EncoderConfig, MaskReduce, ModelConfig};
pub use precision::Precision;
pub use preset::Preset;
pub use problem::Problem;
pub use train::{ElementCount, OptimizerKind, ScheduleKind, TrainConfig};
pub use vocabulary::Vocabulary;
pub use yaml::{has_key, read_text};

#[cfg(test)]
mod tests;
