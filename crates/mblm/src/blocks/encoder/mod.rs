//! The block `transformerEncoder`: bidirectional attention and feed-forward layers, for encoders.

mod spec;
mod stack;

pub use spec::TransformerEncoder;
