//! Checks, costs, memory and device limits of a Transformer stack, from its keys.

use mblm_ops::attention;

use super::keys::Transformer;
use super::stack::Stack;
use crate::Result;
use crate::blocks::cost::{BlockCost, BlockMemory, Count, MemoryArgs};
use crate::blocks::keys::{at_least_one, countable, keys_of, probability, schema_of};
use crate::blocks::spec::{BlockArgs, BlockSpec, Keys, PositionEmbedding, TellingKeys};
use crate::config::Problem;
use crate::model::StageBlock;

impl Transformer {
    /// The channels of all heads.
    fn width(&self) -> Count {
        Count::of(self.attn_num_heads) * Count::of(self.attn_head_dims)
    }
}

impl BlockSpec for Transformer {
    fn block_type(&self) -> &str {
        "transformer"
    }

    fn keys(&self) -> Keys {
        keys_of(self)
    }

    fn schema(&self) -> Option<serde_json::Value> {
        Some(schema_of::<Self>())
    }

    fn position_embedding(&self) -> Option<PositionEmbedding> {
        self.pos_emb_type
    }

    fn instead(&self) -> Option<&str> {
        Some("transformerEncoder")
    }

    fn telling_keys(&self) -> Option<TellingKeys> {
        Some(TellingKeys {
            title: "a Transformer",
            keys: &[
                "attn_head_dims",
                "attn_num_heads",
                "attn_use_rot_embs",
                "attn_dropout",
                "ff_multiplier",
                "ff_dropout",
                "use_flash_attn",
            ],
        })
    }

    fn check(&self, dim: usize) -> Result<(), Problem> {
        at_least_one("attn_head_dims", self.attn_head_dims)?;
        at_least_one("attn_num_heads", self.attn_num_heads)?;
        at_least_one("ff_multiplier", self.ff_multiplier)?;
        if self.attn_use_rot_embs && !self.attn_head_dims.is_multiple_of(2) {
            let message = format!(
                "expected an even head width for rotary embeddings, which turn pairs of channels, found {}; \
                 make it even or set attn_use_rot_embs to false",
                self.attn_head_dims
            );
            return Err(Problem::new("attn_head_dims", message));
        }
        probability("attn_dropout", self.attn_dropout)?;
        probability("ff_dropout", self.ff_dropout)?;
        let heads = "attn_num_heads × attn_head_dims";
        countable("attn_num_heads", heads, self.attn_num_heads, self.attn_head_dims)?;
        countable("ff_multiplier", "ff_multiplier × hidden dim", self.ff_multiplier, dim)
    }

    fn dropout(&self) -> Option<f64> {
        Some(self.attn_dropout.max(self.ff_dropout))
    }

    /// A layer: norm, W_q, W_kv, W_o; norm, two linear layers with biases. A norm after all layers.
    fn cost(&self, dim: usize, layers: usize) -> Option<BlockCost> {
        let (dim, layers) = (Count::of(dim), Count::of(layers));
        let inner = Count::of(self.ff_multiplier) * dim;
        let attention = dim + Count(4) * self.width() * dim;
        let feed_forward = dim + Count::TWO * inner * dim + inner + dim;
        let matrices = Count(4) * self.width() * dim + Count::TWO * inner * dim;
        Some(BlockCost {
            parameters: (layers * (attention + feed_forward) + dim).0,
            multiplications: (layers * matrices).0,
        })
    }

    /// The state is the last rows of two token shifts, and the growing keys and values of all
    /// positions, with spare capacity and gradients.
    fn memory(&self, args: &MemoryArgs) -> BlockMemory {
        let width = 2.0 * self.attn_num_heads as f64 * self.attn_head_dims as f64;
        BlockMemory {
            row: args.element * activations(self, args),
            state: 2.0 * args.element * args.dim as f64,
            position: 3.5 * args.element * width,
        }
    }

    fn device_limits(&self) -> Vec<String> {
        let mut limits = Vec::new();
        let (width, max) = (self.attn_head_dims, attention::MAX_HEAD_DIM_ON_CUDA);
        if width > max {
            limits.push(format!(
                "attention heads of {width}: CUDA kernels take up to {max} (attn_head_dims)"
            ));
        }
        limits.extend(attention_dropout(self.attn_dropout));
        limits
    }

    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> {
        Ok(Box::new(Stack::decoder(self, args.dim, args.layers, args.builder)?))
    }
}

/// The CUDA kernels' limit on this dropout of attention weights, as a message.
pub(in crate::blocks) fn attention_dropout(dropout: f64) -> Option<String> {
    (dropout > 0.0).then(|| "dropout of attention weights (attn_dropout): CUDA kernels do not support it".to_string())
}

/// Elements that a layer keeps per row: residuals and norms; q, [k | v], the attended values; the
/// inner activations. On the CPU also rotated keys and values, and the weights if keys are few.
pub(in crate::blocks) fn activations(block: &Transformer, args: &MemoryArgs) -> f64 {
    let dim = args.dim as f64;
    let heads = block.attn_num_heads as f64;
    let width = heads * block.attn_head_dims as f64;
    let attention = match (args.gpu, args.positions <= 64) {
        (true, _) => 4.0 * width,
        (false, true) => 6.0 * width + heads * args.positions as f64,
        (false, false) => 6.0 * width,
    };
    4.0 * dim + attention + 2.0 * block.ff_multiplier as f64 * dim
}
