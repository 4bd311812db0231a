//! The fused parts, one after the other: a call of one costs little next to the weights that it reads.

use candle_core::{Result, Tensor};

use super::{Computed, Layer, LayerState, NORM};
use crate::attention::Attention;
use crate::{add_norm, attention, gelu, linear};

pub(super) fn step(
    a: &Attention,
    layers: &[Layer],
    states: &[LayerState],
    gain: &Tensor,
    position: usize,
    x: &Tensor,
) -> Result<Computed> {
    let (_, _, d) = x.dims3()?;
    let zeros = Tensor::zeros((1, 1, d), x.dtype(), x.device())?;
    let (mut x, mut delta) = (x.clone(), None);
    let (mut shifts, mut rows) = (Vec::new(), Vec::new());
    for (layer, state) in layers.iter().zip(states) {
        let before = state.attention_shift.as_ref().unwrap_or(&zeros);
        let entered = add_norm::forward(&x, delta.as_ref(), &layer.attention_gain, NORM, Some(before))?;
        let q = linear::forward(&entered.normed, &layer.to_q, None)?;
        let kv = linear::forward(&entered.normed, &layer.to_kv, None)?;
        let mixed = attention::forward(a, &q, &kv, state.past.as_ref(), position, None)?;
        let added = linear::forward(&mixed.out, &layer.to_out, None)?;

        let before = state.feed_forward_shift.as_ref().unwrap_or(&zeros);
        let between = add_norm::forward(
            &entered.residual,
            Some(&added),
            &layer.feed_forward_gain,
            NORM,
            Some(before),
        )?;
        let inner = linear::forward(&between.normed, &layer.inner, None)?;
        let activated = gelu::forward(&inner, Some(&layer.inner_bias))?;
        delta = Some(linear::forward(&activated, &layer.outer, Some(&layer.outer_bias))?);
        x = between.residual.clone();
        shifts.push([entered.residual, between.residual]);
        rows.push(mixed.present);
    }
    Ok(Computed {
        out: add_norm::forward(&x, delta.as_ref(), gain, NORM, None)?.normed,
        shifts,
        present: rows,
    })
}
