//! Generating bytes: decoding with state, and ids from logits, one at a time.
//!
//! | file | holds |
//! |---|---|
//! | [`generator`] | the model with state: prefill, then a byte at a time |
//! | `shards` | many streams from one state, side by side: [`GeneratorState::fork_shards`], [`ShardThreads`] |
//! | `saved` | the state in a file: [`Generator::save_state`], [`Generator::load_state`] |
//! | `streams` | streams that do not go in step: [`Generator::prefill_each`], [`Generator::step_each`] |
//! | [`sample`] | logits → the next id: filters and draw, seeded per stream |
//! | [`token_set`] | sets of ids, such as those that may be produced |
//! | [`constraint`] | what may come next for the stream to stay valid UTF-8 |
//! | [`stop`] | where a stream ends: stop strings and stop ids |

pub mod constraint;
pub mod generator;
pub mod sample;
mod saved;
mod shards;
pub mod stop;
mod streams;
pub mod token_set;

pub use constraint::Utf8Only;
pub use generator::{Generator, GeneratorState};
pub use sample::{Sampler, Sampling};
pub use shards::ShardThreads;
pub use stop::{StopReason, StopRules, StopScanner};
pub use token_set::TokenSet;
