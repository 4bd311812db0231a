//! Blocks: the computation of a stage, a map from (sequences, positions, D) to the same shape.
//!
//! [`BlockSpec`] describes a block type before it is built: keys, checks, costs, limits,
//! construction. Each built-in block has a folder: `spec.rs` with its keys and costs, `stack.rs`
//! with the computation. [`BlockRegistry`] maps names to block types, built-in or custom.
//!
//! ```
//! use mblm::blocks::{BlockConfig, Mamba2, PositionEmbedding, Transformer};
//!
//! let block = Transformer::new(4, 32).pos_emb_type(PositionEmbedding::Fixed);
//! assert_eq!(BlockConfig::from(block).block_type(), "transformer");
//! assert_eq!(BlockConfig::from(Mamba2::default()).dropout(), Some(0.0));
//! ```

mod cost;
mod encoder;
mod keys;
mod mamba1;
mod mamba2;
mod registry;
mod scan;
mod spec;
mod transformer;
mod untyped;

pub use cost::{BlockCost, BlockMemory, MemoryArgs};
pub use encoder::TransformerEncoder;
pub use keys::{keys_of, schema_of};
pub use mamba1::Mamba1;
pub use mamba2::Mamba2;
pub use registry::BlockRegistry;
pub use spec::{BlockArgs, BlockConfig, BlockSpec, Direction, Keys, PositionEmbedding, TellingKeys};
pub use transformer::Transformer;
pub use untyped::UntypedBlock;

pub(crate) use cost::Count;
pub(crate) use keys::at_least_one;

/// All built-in blocks.
impl Default for BlockRegistry {
    fn default() -> Self {
        let mut registry = Self::empty();
        registry.register::<Transformer>();
        registry.register::<TransformerEncoder>();
        registry.register::<Mamba2>();
        registry.register::<Mamba1>();
        registry
    }
}

/// A Transformer.
impl Default for BlockConfig {
    fn default() -> Self {
        Transformer::default().into()
    }
}
