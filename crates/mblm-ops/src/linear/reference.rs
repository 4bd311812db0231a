//! The reference implementation: a broadcast matrix product and a sum.

use candle_core::{Result, Tensor};

/// y = x Wᵀ + b, differentiable by candle.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.broadcast_matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}
