//! The block `transformerEncoder`: attention and feed-forward layers that see both ways, for encoders.

mod spec;
mod stack;

pub use spec::TransformerEncoder;
