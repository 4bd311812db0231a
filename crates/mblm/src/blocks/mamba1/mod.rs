//! The block `mamba1`: selective state-space layers with a decay per channel and state entry.

mod keys;
mod spec;
mod stack;

pub use keys::Mamba1;
