//! What a stage's block is before it is built: its keys, checks, costs and limits, and how it is built.
//!
//! A block type is a struct of its keys that implements [`BlockSpec`]. The built-in blocks do so in their folders, a user's block
//! anywhere; [`BlockRegistry`](super::BlockRegistry) gives configurations the names of both in the same way.

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

/// The keys of a block and their values, in the order in which they are written, without `block_type`.
pub type Keys = serde_json::Map<String, serde_json::Value>;

/// How a stage's embedded tokens learn where in the sequence they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    /// A learned table (P_n, D_n), added; the stage's sequence can be no longer than the table.
    Fixed,
    /// A rotation of the whole embedding (D_n) by position.
    Rope,
}

/// Which positions a row of a block may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those up to its own, as in a decoder.
    Causal,
    /// All that are visible, as in an encoder.
    Bidirectional,
}

/// Keys that tell which block a map means that has no `block_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TellingKeys {
    /// The block in the words of an error message.
    pub title: &'static str,
    /// Keys that no other block has.
    pub keys: &'static [&'static str],
}

/// What a block is built from.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct BlockArgs<'a> {
    /// The width of the stage.
    pub dim: usize,
    /// The number of layers that the configuration asks for.
    pub layers: usize,
    /// Makes the block's parameters, named `stage_models.{n}.…`.
    pub builder: &'a Builder<'a>,
}

impl<'a> BlockArgs<'a> {
    /// A stack of `layers` layers of width `dim`.
    pub fn new(dim: usize, layers: usize, builder: &'a Builder<'a>) -> Self {
        Self { dim, layers, builder }
    }
}

/// A block type with its keys: everything that a configuration, a plan and a model ask about a block.
pub trait BlockSpec: Any + fmt::Debug + Send + Sync {
    /// The name of the block type, as `block_type` in a configuration.
    fn block_type(&self) -> &str;

    /// The keys as they are written; [`keys_of`](super::keys_of) makes them from a struct that serializes.
    fn keys(&self) -> Keys;

    /// The JSON schema of the keys, which [`schema_of`](super::schema_of) makes; `None` if it is not known.
    fn schema(&self) -> Option<serde_json::Value> {
        None
    }

    /// Position embedding of the stage's tokens.
    fn position_embedding(&self) -> Option<PositionEmbedding> {
        None
    }

    /// Which positions the block sees; a decoder takes causal blocks, an encoder bidirectional ones.
    fn direction(&self) -> Direction {
        Direction::Causal
    }

    /// The block type to name instead in a model of the other direction.
    fn instead(&self) -> Option<&str> {
        None
    }

    /// The keys that tell this block where no `block_type` does.
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

    /// The largest dropout probability that training really uses; 0 means that training computes the same as evaluation.
    ///
    /// `None` means that it is not known before the block is built. Only a first stage that is known to have no dropout is
    /// trained in chunks.
    fn dropout(&self) -> Option<f64> {
        None
    }

    /// Parameters and multiplications of `layers` layers of width `dim`; `None` means that they are not known before the block is
    /// built.
    fn cost(&self, dim: usize, layers: usize) -> Option<BlockCost> {
        let _ = (dim, layers);
        None
    }

    /// What a layer takes in training.
    fn memory(&self, args: &MemoryArgs) -> BlockMemory {
        BlockMemory::unknown(args.dim)
    }

    /// What of the block has no CUDA kernel, a sentence each that names the key.
    fn device_limits(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes the block for a decoder's stage.
    ///
    /// # Errors
    /// A bidirectional block; parameters that cannot be made.
    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>>;

    /// Makes the block for an encoder's stage.
    ///
    /// # Errors
    /// A causal block; parameters that cannot be made.
    fn build_encoder(&self, args: &BlockArgs<'_>) -> Result<Box<dyn EncoderBlock>> {
        let _ = args;
        Err(Error::config(format!(
            "block_type {}: does not see both ways, as the blocks of an encoder do",
            self.block_type()
        )))
    }
}

/// The block of one stage: any [`BlockSpec`], compared by block type and keys.
#[derive(Clone)]
pub struct BlockConfig(Arc<dyn BlockSpec>);

impl BlockConfig {
    /// The block with its keys, if it is of this type.
    pub fn downcast_ref<T: BlockSpec>(&self) -> Option<&T> {
        let spec: &dyn Any = &*self.0;
        spec.downcast_ref()
    }

    /// Checks the block for a stage of width `dim` of a model that sees in this direction.
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
