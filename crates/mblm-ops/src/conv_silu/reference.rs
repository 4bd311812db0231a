//! The reference implementation: one shifted product per tap.

use candle_core::{Result, Tensor};

/// y (n, t, c) and the new tail (n, k - 1, c), differentiable by candle.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, tail: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let (n, t, c) = x.dims3()?;
    let kernel = weight.dim(2)?;
    let extended = match tail {
        _ if kernel == 1 => x.clone(),
        Some(tail) => Tensor::cat(&[&tail.broadcast_as((n, kernel - 1, c))?.contiguous()?, x], 1)?,
        None => x.pad_with_zeros(1, kernel - 1, 0)?,
    };
    let mut y = bias.broadcast_as((n, t, c))?;
    for tap in 0..kernel {
        let factor = weight.narrow(2, tap, 1)?.reshape(c)?; // (c, 1, 1) -> (c)
        y = (y + extended.narrow(1, tap, t)?.broadcast_mul(&factor)?)?;
    }
    Ok((y.silu()?, extended.narrow(1, t, kernel - 1)?))
}
