//! The keys of a bidirectional Transformer stack, equal to the causal one's, and its costs.

use serde::{Deserialize, Serialize};

use super::stack::EncoderStack;
use crate::blocks::cost::{BlockCost, BlockMemory, MemoryArgs};
use crate::blocks::spec::{BlockArgs, BlockSpec, Direction, Keys, PositionEmbedding, TellingKeys};
use crate::blocks::transformer::{Stack, Transformer, activations, attention_dropout};
use crate::config::Problem;
use crate::model::{EncoderBlock, StageBlock};
use crate::{Error, Result};

/// A stack of bidirectional Transformer layers, with the keys of the causal one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransformerEncoder(pub Transformer);

impl TransformerEncoder {
    /// A stack with `heads` rotary attention heads of `head_dims` channels.
    pub fn new(heads: usize, head_dims: usize) -> Self {
        Self(Transformer::new(heads, head_dims))
    }
}

impl BlockSpec for TransformerEncoder {
    fn block_type(&self) -> &str {
        "transformerEncoder"
    }

    fn keys(&self) -> Keys {
        self.0.keys()
    }

    fn schema(&self) -> Option<serde_json::Value> {
        self.0.schema()
    }

    fn position_embedding(&self) -> Option<PositionEmbedding> {
        self.0.pos_emb_type
    }

    fn direction(&self) -> Direction {
        Direction::Bidirectional
    }

    fn instead(&self) -> Option<&str> {
        Some("transformer")
    }

    fn telling_keys(&self) -> Option<TellingKeys> {
        self.0.telling_keys()
    }

    fn check(&self, dim: usize) -> Result<(), Problem> {
        self.0.check(dim)
    }

    fn dropout(&self) -> Option<f64> {
        self.0.dropout()
    }

    fn cost(&self, dim: usize, layers: usize) -> Option<BlockCost> {
        self.0.cost(dim, layers)
    }

    /// An encoder carries no state between positions
    fn memory(&self, args: &MemoryArgs) -> BlockMemory {
        BlockMemory {
            row: args.element * activations(&self.0, args),
            state: 0.0,
            position: 0.0,
        }
    }

    fn device_limits(&self) -> Vec<String> {
        let mut limits = vec!["attention with masked bytes: CUDA kernels see all keys".to_string()];
        limits.extend(attention_dropout(self.0.attn_dropout));
        limits
    }

    fn build(&self, _: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> {
        Err(Error::config(
            "block_type transformerEncoder: attends to the bytes that a decoder predicts; use transformer",
        ))
    }

    fn build_encoder(&self, args: &BlockArgs<'_>) -> Result<Box<dyn EncoderBlock>> {
        let stack = Stack::encoder(&self.0, args.dim, args.layers, args.builder)?;
        Ok(Box::new(EncoderStack(stack)))
    }
}
