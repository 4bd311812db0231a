//! The built-in blocks: stacks of layers that map (sequences, positions, D) to the same shape. One folder a block.

mod mamba1;
mod mamba2;
mod transformer;

pub use mamba1::Mamba1;
pub use mamba2::Mamba2;
pub use transformer::Transformer;
