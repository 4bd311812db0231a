//! The interface between an encoder and the blocks that make up its stages.

use candle_core::Tensor;

use super::block::{Pass, Saved};
use super::compute::Compute;
use super::gradients::Gradients;
use crate::Result;

/// A bidirectional map from (sequences, positions, D) to the same shape: the computation of one
/// encoder stage. Each row depends on all visible rows.
pub trait EncoderBlock: Send + Sync {
    /// Maps `x` (n, t, D) to (n, t, D); `visible` (n, t) `u8` marks the positions that are seen.
    fn encode(&self, x: &Tensor, visible: Option<&Tensor>, compute: &Compute) -> Result<Tensor>;

    /// [`encode`](Self::encode) that also returns what the backward pass needs.
    fn encode_train(
        &self,
        x: &Tensor,
        visible: Option<&Tensor>,
        pass: &Pass,
        compute: &Compute,
    ) -> Result<(Tensor, Saved)>;

    /// Returns the gradient of the input of [`encode_train`](Self::encode_train), given the
    /// gradient of its result; adds the gradients of the block's parameters to their buffers.
    fn encode_backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor>;
}
