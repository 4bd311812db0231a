//! The reference implementation: the pairs as a last dimension of two.

use candle_core::{D, Result, Tensor};

use super::angles::Angles;
use crate::precision::widened;

/// Cosines and sines, each (rows, d/2), of positions `start..start + rows` for vectors of `d`
/// channels, `d` even.
pub(crate) fn tables(start: usize, rows: usize, d: usize, like: &Tensor) -> Result<(Tensor, Tensor)> {
    let table = Angles::<f64>::new(start, rows, d).into_table();
    let table = Tensor::from_vec(table, (rows, 2, d / 2), &candle_core::Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())?;
    let part = |index| table.narrow(1, index, 1)?.squeeze(1)?.contiguous();
    Ok((part(0)?, part(1)?))
}

/// Rotates the pairs of `x` (n, t, d) by the angles of positions `start..start + t`.
///
/// Rotates back if `back` is set; differentiable by candle. Half precision is computed in `f32`.
pub(crate) fn forward(x: &Tensor, start: usize, back: bool) -> Result<Tensor> {
    let (n, t, d) = x.dims3()?;
    let pairs = widened(x)?.reshape((n, t, d / 2, 2))?; // (n, t, pair, member)
    let (cos, sin) = tables(start, t, d, &pairs)?;
    let sin = if back { sin.neg()? } else { sin };
    let first = pairs.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?;
    let second = pairs.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?;
    let rotated = Tensor::stack(
        &[
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ],
        D::Minus1,
    )?;
    rotated.reshape((n, t, d))?.to_dtype(x.dtype()) // (n, t, pair, member) → (n, t, d)
}
