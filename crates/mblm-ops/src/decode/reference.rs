//! The reference implementation: the references of a layer's operations, in order.

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
        let (entered, normed) =
            add_norm::reference::forward(&x, delta.as_ref(), &layer.attention_gain, NORM, Some(before))?;
        let q = linear::reference::forward(&normed, &layer.to_q, None)?;
        let kv = linear::reference::forward(&normed, &layer.to_kv, None)?;
        let (mixed, present) = attention::reference::forward(a, &q, &kv, state.past.as_ref(), position, None)?;
        let added = linear::reference::forward(&mixed, &layer.to_out, None)?;

        let before = state.feed_forward_shift.as_ref().unwrap_or(&zeros);
        let (between, normed) =
            add_norm::reference::forward(&entered, Some(&added), &layer.feed_forward_gain, NORM, Some(before))?;
        let inner = linear::reference::forward(&normed, &layer.inner, None)?;
        let activated = gelu::reference::forward(&inner, Some(&layer.inner_bias))?;
        delta = Some(linear::reference::forward(
            &activated,
            &layer.outer,
            Some(&layer.outer_bias),
        )?);
        x = between.clone();
        shifts.push([entered, between]);
        rows.push(present);
    }
    let (_, out) = add_norm::reference::forward(&x, delta.as_ref(), gain, NORM, None)?;
    Ok(Computed {
        out,
        shifts,
        present: rows,
    })
}
