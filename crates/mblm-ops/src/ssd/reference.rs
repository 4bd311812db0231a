//! The reference implementation: the recurrence itself, position by position.

use candle_core::{D, Result, Tensor};

use super::{Inputs, Ssd};
use crate::softplus::softplus;

/// y (n, t, H·P) and the last state (n, H, P, N), differentiable by candle.
pub(crate) fn forward(s: &Ssd, inputs: &Inputs) -> Result<(Tensor, Tensor)> {
    let (n, t, _) = inputs.xbc.dims3()?;
    let (heads, head_dim, state) = (s.heads, s.head_dim, s.state);
    let width = heads * head_dim;
    let x = inputs.xbc.narrow(2, 0, width)?.reshape((n, t, heads, head_dim))?;
    let b = inputs.xbc.narrow(2, width, state)?;
    let c = inputs.xbc.narrow(2, width + state, state)?;
    let delta = softplus(&inputs.dt.broadcast_add(inputs.dt_bias)?)?; // (n, t, H)
    let decay = delta.broadcast_mul(&inputs.a_log.exp()?.neg()?)?.exp()?; // (n, t, H)
    let shape = (n, heads, head_dim, state);
    let mut h = match inputs.initial {
        Some(initial) => initial.broadcast_as(shape)?,
        None => Tensor::zeros(shape, x.dtype(), x.device())?,
    };
    let mut ys = Vec::with_capacity(t);
    for position in 0..t {
        let at = |tensor: &Tensor| tensor.narrow(1, position, 1)?.squeeze(1);
        let per_head = |tensor: &Tensor| at(tensor)?.reshape((n, heads, 1, 1));
        let per_state = |tensor: &Tensor| at(tensor)?.reshape((n, 1, 1, state));
        let x = at(&x)?.unsqueeze(D::Minus1)?; // (n, H, P, 1)
        let drive = x.broadcast_mul(&per_head(&delta)?)?.broadcast_mul(&per_state(&b)?)?;
        h = (h.broadcast_mul(&per_head(&decay)?)? + drive)?;
        ys.push(h.broadcast_mul(&per_state(&c)?)?.sum(D::Minus1)?); // (n, H, P)
    }
    let skip = x.broadcast_mul(&inputs.d.reshape((heads, 1))?)?;
    let y = (Tensor::stack(&ys, 1)? + skip)?;
    Ok((y.reshape((n, t, width))?, h))
}
