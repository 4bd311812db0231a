//! The interface between an encoder and the blocks that make up its stages.

use candle_core::Tensor;

use super::block::{Pass, Saved};
use super::compute::Compute;
use super::gradients::Gradients;
use crate::Result;

/// A map from (sequences, positions, D) to the same shape in which each row depends on all visible rows: what a stage of an encoder
/// does with its sequences.
pub trait EncoderBlock: Send + Sync {
    /// Maps `x` (n, t, D) to (n, t, D); every position sees all positions that `visible` (n, t) `u8` does not hide.
    fn encode(&self, x: &Tensor, visible: Option<&Tensor>, compute: &Compute) -> Result<Tensor>;

    /// [`encode`](Self::encode) that keeps what the backward pass needs.
    fn encode_train(
        &self,
        x: &Tensor,
        visible: Option<&Tensor>,
        pass: &Pass,
        compute: &Compute,
    ) -> Result<(Tensor, Saved)>;

    /// The gradient of the input of [`encode_train`](Self::encode_train), from that of its result; adds the gradients of the
    /// block's parameters to their buffers.
    fn encode_backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor>;
}
