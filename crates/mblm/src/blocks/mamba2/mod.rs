//! The block `mamba2`: state-space layers with a scalar decay per head.

mod stack;

pub use stack::Mamba2;
