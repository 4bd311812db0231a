//! Byte generation: stateful decoding, and sampling of ids from logits.
//!
//! | file | holds |
//! |---|---|
//! | [`mod@complete`] | completions of a prompt, delivered piece by piece |
//! | [`generator`] | the model with state: prefill, then byte by byte |
//! | `prefill` | reading a prompt in pieces, with a watch: [`Generator::prefill_watched`] |
//! | `window` | texts longer than the context: [`Window`] |
//! | `shards` | many streams from one state, side by side: [`GeneratorState::fork_shards`], [`ShardThreads`] |
//! | `saved` | the state in a file: [`Generator::save_state`], [`Generator::load_state`] |
//! | `streams` | streams at different positions: [`Generator::prefill_each`], [`Generator::step_each`] |
//! | [`sample`] | logits → the next id: filters and draw, seeded per stream |
//! | [`token_set`] | sets of ids, such as the allowed ids |
//! | [`constraint`] | the next ids that keep a stream valid UTF-8 |
//! | [`stop`] | the end of a stream: stop strings and stop ids |

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
