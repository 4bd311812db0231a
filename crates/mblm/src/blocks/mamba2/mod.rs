//! The block `mamba2`: state-space layers with a scalar decay per head.

mod spec;
mod stack;

pub use spec::Mamba2;
