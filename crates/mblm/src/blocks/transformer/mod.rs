//! The block `transformer`: causal attention and feed-forward layers with token shift.

mod keys;
mod spec;
mod stack;

pub use keys::Transformer;
pub(in crate::blocks) use spec::{activations, attention_dropout};
pub(in crate::blocks) use stack::Stack;
