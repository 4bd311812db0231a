//! The reference implementation: the recurrence itself, position by position.

use candle_core::{D, Result, Tensor};

use super::Inputs;
use crate::softplus::softplus;

/// y (n, t, d_i) and the last state (n, d_i, N), differentiable by candle.
pub(crate) fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor)> {
    let (n, t, channels) = inputs.u.dims3()?;
    let state = inputs.a_log.dim(1)?;
    let a = inputs.a_log.exp()?.neg()?; // (d_i, N)
    let delta = softplus(inputs.delta)?;
    let drive = (&delta * inputs.u)?; // (n, t, d_i)
    let shape = (n, channels, state);
    let mut h = match inputs.initial {
        Some(initial) => initial.broadcast_as(shape)?,
        None => Tensor::zeros(shape, a.dtype(), a.device())?,
    };
    let mut ys = Vec::with_capacity(t);
    for position in 0..t {
        let at = |tensor: &Tensor| tensor.narrow(1, position, 1)?.squeeze(1);
        let per_channel = |tensor: &Tensor| at(tensor)?.unsqueeze(D::Minus1); // (n, d_i, 1)
        let per_state = |tensor: &Tensor| at(tensor)?.unsqueeze(1); // (n, 1, N)
        let decay = per_channel(&delta)?.broadcast_mul(&a)?.exp()?; // (n, d_i, N)
        h = ((h * decay)? + per_channel(&drive)?.broadcast_mul(&per_state(inputs.b)?)?)?;
        ys.push(h.broadcast_mul(&per_state(inputs.c)?)?.sum(D::Minus1)?); // (n, d_i)
    }
    let y = (Tensor::stack(&ys, 1)? + inputs.u.broadcast_mul(inputs.d)?)?;
    Ok(((y * inputs.z.silu()?)?, h))
}
