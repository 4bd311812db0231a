//! The reference implementation: addition, shift by concatenation, then the norm's formula.

use candle_core::{D, Result, Tensor};

use super::{Norm, keep};
use crate::precision::widened;

/// The residual stream and its shifted, normed rows, differentiable by candle.
pub(crate) fn forward(
    x: &Tensor,
    delta: Option<&Tensor>,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let residual = match delta {
        Some(delta) => (x + delta)?,
        None => x.clone(),
    };
    let rows = widened(&match previous {
        Some(previous) => shift(&residual, previous)?,
        None => residual.clone(),
    })?;
    let mean_square = rows.sqr()?.mean_keepdim(D::Minus1)?; // (n, t, 1)
    let divisor = match norm {
        // max(√m, 1e-8) = √max(m, 1e-16), which has a gradient at m = 0
        Norm::Clamped => mean_square.maximum(1e-16)?.sqrt()?,
        Norm::Eps => (mean_square + 1e-5)?.sqrt()?,
    };
    let normed = rows.broadcast_div(&divisor)?.broadcast_mul(&widened(gain)?)?;
    Ok((residual, normed.to_dtype(x.dtype())?))
}

/// The first half of the channels in place, the second half from the row before.
fn shift(residual: &Tensor, previous: &Tensor) -> Result<Tensor> {
    let (n, t, d) = residual.dims3()?;
    let keep = keep(d, true);
    if keep == d {
        return Ok(residual.clone());
    }
    let previous = previous.broadcast_as((n, 1, d))?;
    let before = Tensor::cat(&[&previous, &residual.narrow(1, 0, t - 1)?], 1)?; // (n, t, d)
    Tensor::cat(&[residual.narrow(2, 0, keep)?, before.narrow(2, keep, d - keep)?], 2)
}
