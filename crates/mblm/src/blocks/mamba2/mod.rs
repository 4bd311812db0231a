//! The block `mamba2`: state-space layers with a scalar decay per head.

mod keys;
mod spec;
mod stack;

pub use keys::Mamba2;
