//! The block `mamba1`: selective state-space layers.

mod stack;

pub use stack::Mamba1;
