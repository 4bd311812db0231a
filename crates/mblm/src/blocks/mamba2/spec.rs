//! Checks, costs, memory and device limits of a Mamba2 stack, from its keys.

use mblm_ops::{conv_silu, ssd};

use super::keys::Mamba2;
use super::stack::Stack;
use crate::Result;
use crate::blocks::cost::{BlockCost, BlockMemory, Count, MemoryArgs};
use crate::blocks::keys::{at_least_one, countable, keys_of, probability, schema_of};
use crate::blocks::scan;
use crate::blocks::spec::{BlockArgs, BlockSpec, Keys, PositionEmbedding, TellingKeys};
use crate::config::Problem;
use crate::model::StageBlock;

impl Mamba2 {
    fn check_heads(&self, dim: usize) -> Result<(), Problem> {
        let inner = self.expand.saturating_mul(dim);
        if inner.is_multiple_of(self.headdim) {
            return Ok(());
        }
        let message = format!(
            "expected a divisor of expand × hidden dim = {} × {dim} = {inner}, found {}; try {}",
            self.expand,
            self.headdim,
            nearest_divisor(inner, self.headdim)
        );
        Err(Problem::new("headdim", message))
    }
}

impl BlockSpec for Mamba2 {
    fn block_type(&self) -> &str {
        "mamba2"
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
            title: "Mamba2",
            keys: &["d_state", "d_conv", "expand", "headdim"],
        })
    }

    fn check(&self, dim: usize) -> Result<(), Problem> {
        at_least_one("d_state", self.d_state)?;
        at_least_one("d_conv", self.d_conv)?;
        at_least_one("expand", self.expand)?;
        countable("expand", "expand × hidden dim", self.expand, dim)?;
        at_least_one("headdim", self.headdim)?;
        probability("dropout", self.dropout)?;
        self.check_heads(dim)
    }

    fn dropout(&self) -> Option<f64> {
        Some(self.dropout)
    }

    /// A layer: norm, W_in, convolution with bias, A_log, D and dt_bias per head, gated norm,
    /// W_out. A norm after all layers.
    fn cost(&self, dim: usize, layers: usize) -> Option<BlockCost> {
        let (dim, layers) = (Count::of(dim), Count::of(layers));
        let inner = Count::of(self.expand) * dim;
        let heads = Count(inner.0.checked_div(self.headdim as u64).unwrap_or(0));
        let states = Count::TWO * Count::of(self.d_state);
        let convolved = inner + states;
        let w_in = (inner + convolved + heads) * dim;
        let convolution = convolved * Count::of(self.d_conv) + convolved;
        let layer = dim + w_in + convolution + Count(3) * heads + inner + dim * inner;
        let matrices = (Count(3) * inner + states + heads) * dim;
        Some(BlockCost {
            parameters: (layers * layer + dim).0,
            multiplications: (layers * matrices).0,
        })
    }

    fn memory(&self, args: &MemoryArgs) -> BlockMemory {
        let dim = args.dim as f64;
        let inner = self.expand as f64 * dim;
        let states = 2.0 * self.d_state as f64;
        let heads = (inner / self.headdim.max(1) as f64).floor();
        let elements = 2.0 * dim + 3.0 * inner + 2.0 * (inner + states) + heads;
        BlockMemory {
            row: args.element * elements + scan::row(args, inner, self.d_state),
            state: scan::state(args, inner, inner + states, self.d_state, self.d_conv),
            position: 0.0,
        }
    }

    fn device_limits(&self) -> Vec<String> {
        let limits = [
            ("scan heads", self.headdim, ssd::MAX_HEAD_DIM_ON_CUDA, "headdim"),
            ("scan states", self.d_state, ssd::MAX_STATES_ON_CUDA, "d_state"),
            ("convolutions", self.d_conv, conv_silu::MAX_TAPS_ON_CUDA, "d_conv"),
        ];
        limits.into_iter().filter_map(scan::beyond).collect()
    }

    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> {
        Ok(Box::new(Stack::new(self, args.dim, args.layers, args.builder)?))
    }
}

/// The largest divisor of `number` that is at most `wanted` (at least 1).
fn nearest_divisor(number: usize, wanted: usize) -> usize {
    let highest = wanted.min(number).min(1 << 16);
    (1..=highest)
        .rev()
        .find(|divisor| number.is_multiple_of(*divisor))
        .unwrap_or(1)
}
