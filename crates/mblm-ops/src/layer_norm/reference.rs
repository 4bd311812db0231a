//! The reference implementation: mean, variance and scaling in tensor operations.

use candle_core::{D, Result, Tensor};

use crate::precision::widened;

/// The layer norm of `x`, differentiable by candle.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let wide = widened(x)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let root = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?; // (…, 1)
    centred
        .broadcast_div(&root)?
        .broadcast_mul(&widened(weight)?)?
        .broadcast_add(&widened(bias)?)?
        .to_dtype(x.dtype())
}
