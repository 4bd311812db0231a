//! The description of a block before it is built: keys, checks, costs, limits, construction.
//!
//! A block type is a struct of its keys that implements [`BlockSpec`], in this crate or elsewhere.
//! [`BlockRegistry`](super::BlockRegistry) makes both kinds available to configurations by name.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::cost::{BlockCost, BlockMemory, MemoryArgs};
use crate::config::Problem;
use crate::model::{Builder, EncoderBlock, StageBlock};
use crate::{Error, Result};

/// The keys of a block and their values, in the order of writing, without `block_type`.
pub type Keys = serde_json::Map<String, serde_json::Value>;

/// The position embedding of a stage's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    /// A learned table (P_n, D_n), added; it limits the length of the stage's sequence.
    Fixed,
    /// A rotation of the whole embedding (D_n) by position.
    Rope,
}

/// The positions that a row of a block may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Positions up to its own, as in a decoder.
    Causal,
    /// All visible positions, as in an encoder.
    Bidirectional,
}

/// Keys that identify a block in a map without `block_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TellingKeys {
    /// The block's name in error messages.
    pub title: &'static str,
    /// Keys that no other block has.
    pub keys: &'static [&'static str],
}

/// The arguments for building a block.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct BlockArgs<'a> {
    /// The width of the stage.
    pub dim: usize,
    /// The number of configured layers.
    pub layers: usize,
    /// Creates the block's parameters, named `stage_models.{n}.…`.
    pub builder: &'a Builder<'a>,
}

impl<'a> BlockArgs<'a> {
    /// Arguments for a stack of `layers` layers of width `dim`.
    pub fn new(dim: usize, layers: usize, builder: &'a Builder<'a>) -> Self {
        Self { dim, layers, builder }
    }
}

/// A block type with its keys: the interface for configurations, plans and models.
pub trait BlockSpec: Any + fmt::Debug + Send + Sync {
    /// The name of the block type: `block_type` in a configuration.
    fn block_type(&self) -> &str;

    /// The keys as written; [`keys_of`](super::keys_of) derives them from a struct that serializes.
    fn keys(&self) -> Keys;

    /// The JSON schema of the keys, which [`schema_of`](super::schema_of) makes; `None` if it is not known.
    fn schema(&self) -> Option<serde_json::Value> {
        None
    }

    /// Position embedding of the stage's tokens.
    fn position_embedding(&self) -> Option<PositionEmbedding> {
        None
    }

    /// The positions that the block sees: decoders take causal blocks, encoders bidirectional ones.
    fn direction(&self) -> Direction {
        Direction::Causal
    }

    /// The block type to suggest for a model of the other direction.
    fn instead(&self) -> Option<&str> {
        None
    }

    /// The keys that identify this block without `block_type`.
    fn telling_keys(&self) -> Option<TellingKeys> {
        None
    }

    /// Checks the keys for a stage of width `dim`.
    ///
    /// # Errors
    /// Names the key, what was expected, what was found and what to try.
    fn check(&self, dim: usize) -> Result<(), Problem> {
        let _ = dim;
        Ok(())
    }

    /// The largest dropout probability of training; 0 means that training computes as evaluation
    /// does.
    ///
    /// `None` means unknown before the block is built. Only a first stage known to have no dropout
    /// is trained in chunks.
    fn dropout(&self) -> Option<f64> {
        None
    }

    /// Parameters and multiplications of `layers` layers of width `dim`; `None` if not known before
    /// the block is built.
    fn cost(&self, dim: usize, layers: usize) -> Option<BlockCost> {
        let _ = (dim, layers);
        None
    }

    /// The memory of a layer in training.
    fn memory(&self, args: &MemoryArgs) -> BlockMemory {
        BlockMemory::unknown(args.dim)
    }

    /// One sentence for each part of the block without a CUDA kernel, naming the key.
    fn device_limits(&self) -> Vec<String> {
        Vec::new()
    }

    /// Builds the block for a decoder's stage.
    ///
    /// # Errors
    /// A bidirectional block; parameters that cannot be created.
    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>>;

    /// Builds the block for an encoder's stage.
    ///
    /// # Errors
    /// A causal block; parameters that cannot be created.
    fn build_encoder(&self, args: &BlockArgs<'_>) -> Result<Box<dyn EncoderBlock>> {
        let _ = args;
        Err(Error::config(format!(
            "block_type {}: does not see both ways, but the blocks of an encoder must",
            self.block_type()
        )))
    }
}

/// The block of one stage: any [`BlockSpec`], compared by block type and keys.
#[derive(Clone)]
pub struct BlockConfig(Arc<dyn BlockSpec>);

impl BlockConfig {
    /// Returns the block with its keys, if it is a `T`.
    pub fn downcast_ref<T: BlockSpec>(&self) -> Option<&T> {
        let spec: &dyn Any = &*self.0;
        spec.downcast_ref()
    }

    /// Checks the block for a stage of width `dim` in a model of this direction.
    pub(crate) fn check_in(&self, dim: usize, direction: Direction) -> Result<(), Problem> {
        self.check_direction(direction)?;
        if self.position_embedding() == Some(PositionEmbedding::Rope) && !dim.is_multiple_of(2) {
            let message = format!(
                "expected an even hidden dim for rope, which turns pairs of channels, found {dim}; make it even or use fixed"
            );
            return Err(Problem::new("pos_emb_type", message));
        }
        self.check(dim)
    }

    fn check_direction(&self, direction: Direction) -> Result<(), Problem> {
        if self.direction() == direction {
            return Ok(());
        }
        let found = self.block_type();
        let message = match direction {
            Direction::Causal => {
                let instead = self.instead().map_or(String::new(), |name| format!("use {name}, or "));
                format!(
                    "expected a causal block in a decoder, found {found}, which would see the bytes it predicts; {instead}wrap the \
                     model's keys in mblm_config for an encoder"
                )
            }
            Direction::Bidirectional => {
                let expected = self.instead().unwrap_or("a bidirectional block");
                format!("expected {expected} in an encoder, whose blocks see both ways, found {found}")
            }
        };
        Err(Problem::new("block_type", message))
    }
}

impl Deref for BlockConfig {
    type Target = dyn BlockSpec;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl<T: BlockSpec> From<T> for BlockConfig {
    fn from(spec: T) -> Self {
        Self(Arc::new(spec))
    }
}

impl fmt::Debug for BlockConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for BlockConfig {
    fn eq(&self, other: &Self) -> bool {
        self.block_type() == other.block_type() && self.keys() == other.keys()
    }
}

impl Serialize for BlockConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let keys = self.keys();
        let mut map = serializer.serialize_map(Some(keys.len() + 1))?;
        map.serialize_entry("block_type", self.block_type())?;
        for (key, value) in &keys {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
