//! The reference implementation: sigmoid by its formula, product, norm.

use candle_core::{D, Result, Tensor};

use crate::precision::widened;

/// RMSNorm(y · silu(z)) · gain, differentiable by candle.
pub(crate) fn forward(y: &Tensor, z: &Tensor, gain: &Tensor) -> Result<Tensor> {
    let (wide_y, z) = (widened(y)?, widened(z)?);
    let sigmoid = (z.neg()?.exp()? + 1.0)?.recip()?;
    let u = ((wide_y * z)? * sigmoid)?;
    let root = (u.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?; // (…, 1)
    u.broadcast_div(&root)?
        .broadcast_mul(&widened(gain)?)?
        .to_dtype(y.dtype())
}
