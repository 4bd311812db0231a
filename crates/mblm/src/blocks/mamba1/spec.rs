//! Checks, costs, memory and device limits of a Mamba1 stack, from its keys.

use mblm_ops::{conv_silu, selective_scan};

use super::keys::Mamba1;
use super::stack::Stack;
use crate::Result;
use crate::blocks::cost::{BlockCost, BlockMemory, Count, MemoryArgs};
use crate::blocks::keys::{at_least_one, countable, keys_of, schema_of};
use crate::blocks::scan;
use crate::blocks::spec::{BlockArgs, BlockSpec, Keys, PositionEmbedding};
use crate::config::Problem;
use crate::model::StageBlock;

impl BlockSpec for Mamba1 {
    fn block_type(&self) -> &str {
        "mamba1"
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

    fn check(&self, dim: usize) -> Result<(), Problem> {
        at_least_one("d_state", self.d_state)?;
        at_least_one("d_conv", self.d_conv)?;
        at_least_one("expand", self.expand)?;
        countable("expand", "expand × hidden dim", self.expand, dim)
    }

    /// None: the key `dropout` is ignored.
    fn dropout(&self) -> Option<f64> {
        Some(0.0)
    }

    /// A layer: norm, W_in, convolution with bias, W_x, W_dt with bias, A_log, D, W_out. Rank of Δ:
    /// ⌈D/16⌉.
    fn cost(&self, dim: usize, layers: usize) -> Option<BlockCost> {
        let (dim, layers) = (Count::of(dim), Count::of(layers));
        let (inner, state) = (Count::of(self.expand) * dim, Count::of(self.d_state));
        let rank = Count(dim.0.div_ceil(16));
        let convolution = inner * Count::of(self.d_conv) + inner;
        let w_x = (rank + Count::TWO * state) * inner;
        let w_dt = rank * inner + inner;
        let layer = dim + Count::TWO * inner * dim + convolution + w_x + w_dt + inner * state + inner + dim * inner;
        let matrices = (Count(3) * dim + Count::TWO * rank + Count::TWO * state) * inner;
        Some(BlockCost {
            parameters: (layers * layer).0,
            multiplications: (layers * matrices).0,
        })
    }

    fn memory(&self, args: &MemoryArgs) -> BlockMemory {
        let dim = args.dim as f64;
        let inner = self.expand as f64 * dim;
        let elements = 2.0 * dim + 5.0 * inner + 2.0 * self.d_state as f64 + (dim / 16.0).ceil();
        BlockMemory {
            row: args.element * elements + scan::row(args, inner, self.d_state),
            state: scan::state(args, inner, inner, self.d_state, self.d_conv),
            position: 0.0,
        }
    }

    fn device_limits(&self) -> Vec<String> {
        let limits = [
            (
                "scan states",
                self.d_state,
                selective_scan::MAX_STATES_ON_CUDA,
                "d_state",
            ),
            ("convolutions", self.d_conv, conv_silu::MAX_TAPS_ON_CUDA, "d_conv"),
        ];
        limits.into_iter().filter_map(scan::beyond).collect()
    }

    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> {
        Ok(Box::new(Stack::new(self, args.dim, args.layers, args.builder)?))
    }
}
