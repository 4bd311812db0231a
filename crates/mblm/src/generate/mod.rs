//! Generating bytes: decoding with state, and ids from logits, one at a time.
//!
//! | file | holds |
//! |---|---|
//! | [`mod@complete`] | completions of a prompt, piece by piece as they come |
//! | [`generator`] | the model with state: prefill, then a byte at a time |
//! | `prefill` | reading a prompt in pieces, watched: [`Generator::prefill_watched`] |
//! | `window` | texts that are longer than the context: [`Window`] |
//! | `shards` | many streams from one state, side by side: [`GeneratorState::fork_shards`], [`ShardThreads`] |
//! | `saved` | the state in a file: [`Generator::save_state`], [`Generator::load_state`] |
//! | `streams` | streams that do not go in step: [`Generator::prefill_each`], [`Generator::step_each`] |
//! | [`sample`] | logits → the next id: filters and draw, seeded per stream |
//! | [`token_set`] | sets of ids, such as those that may be produced |
//! | [`constraint`] | what may come next for the stream to stay valid UTF-8 |
//! | [`stop`] | where a stream ends: stop strings and stop ids |

pub mod complete;
pub mod constraint;
mod cursor;
mod draft;
pub mod generator;
mod prefill;
pub mod sample;
mod saved;
mod shards;
mod side_by_side;
mod single;
pub mod stop;
mod streams;
pub mod token_set;
mod window;
#[cfg(test)]
mod window_tests;

pub use complete::{Completion, OnPrompt, Piece, SamplingParams, Start, complete};
pub use constraint::Utf8Only;
pub use cursor::Cursor;
pub use draft::End;
pub use generator::{Generator, GeneratorState};
pub use sample::{Sampler, Sampling};
pub use shards::ShardThreads;
pub use stop::{StopReason, StopRules, StopScanner};
pub use token_set::TokenSet;
pub use window::Window;
