//! The block `transformer`, and `transformerEncoder` in an encoder: attention and feed-forward layers.

mod stack;

pub use stack::Transformer;
