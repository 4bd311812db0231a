//! The reference implementation: logarithm of the sum of exponentials, minus the target's logit.

use candle_core::{D, Result, Tensor};

/// The loss of each row, differentiable by candle.
pub(crate) fn losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    if logits.dim(0)? == 0 {
        return logits.sum(D::Minus1);
    }
    let largest = logits.detach().max_keepdim(D::Minus1)?; // (r, 1)
    let shifted = logits.broadcast_sub(&largest)?;
    let log_sum = shifted.exp()?.sum(D::Minus1)?.log()?;
    let chosen = shifted.gather(&targets.unsqueeze(D::Minus1)?, D::Minus1)?; // (r, 1)
    log_sum - chosen.squeeze(D::Minus1)?
}
