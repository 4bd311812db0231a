//! A bidirectional Transformer stack: [`transformer`](crate::blocks::Transformer) layers without
//! token shift, with a key mask.

use candle_core::Tensor;

use crate::Result;
use crate::blocks::transformer::Stack;
use crate::model::{Compute, EncoderBlock, Gradients, Pass, Saved};

/// The stack of one encoder stage.
pub(super) struct EncoderStack(pub(super) Stack);

impl EncoderBlock for EncoderStack {
    fn encode(&self, x: &Tensor, visible: Option<&Tensor>, compute: &Compute) -> Result<Tensor> {
        self.0.encode(x, visible, compute)
    }

    fn encode_train(
        &self,
        x: &Tensor,
        visible: Option<&Tensor>,
        pass: &Pass,
        compute: &Compute,
    ) -> Result<(Tensor, Saved)> {
        self.0.encode_train(x, visible, pass, compute)
    }

    fn encode_backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        self.0.encode_backward(saved, dy, compute, gradients)
    }
}
