//! The backward pass of one Transformer layer: the feed-forward half, then attention, each from the
//! gradient of its addition to the residual stream.

use candle_core::Tensor;
use mblm_ops::device::sum_sequences;
use mblm_ops::dropout;
use mblm_ops::{add_norm, attention, gelu};

use super::{ATTENTION_SHIFT, FEED_FORWARD_SHIFT, KEYS_VALUES, Layer, SLOTS, SavedLayer, Stack};
use crate::Result;
use crate::model::block::Pass;
use crate::model::compute::Compute;
use crate::model::gradients::Gradients;
use crate::model::state_gradient::StateGradient;

impl Stack {
    /// The backward pass of [`layer`](Self::layer): from the gradients of its output pair to the
    /// gradient of its input pair (the same for both, since the layer sees only their sum).
    pub(super) fn layer_backward(
        &self,
        layer: &Layer,
        index: usize,
        saved: SavedLayer,
        stack: (usize, &Pass, Option<&Tensor>),
        d_residual: &Tensor,
        d_added: &Tensor,
        d_state: &StateGradient,
        d_begin: &mut StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (start, pass, visible) = stack;
        let slot = SLOTS * index;
        let d_last = d_state.get(slot + FEED_FORWARD_SHIFT);
        let f = self.feed_forward_backward(
            layer, index, &saved, pass, d_residual, d_added, d_last, compute, gradients,
        )?;
        d_begin.set(slot + FEED_FORWARD_SHIFT, f.d_previous);

        let d_attended = layer.to_out.backward(&saved.attended, &f.d_x, compute, gradients)?;
        let positions = saved.q.dim(1)?;
        let before = saved.past.as_ref().map_or(Ok(0), |past| past.dim(1))?;
        let settings = self.attention_for(index, Some(pass), positions, before + positions);
        let d_cache = d_state.get(slot + KEYS_VALUES);
        let d_present = d_cache
            .map(|d_cache| d_cache.narrow(1, before, positions))
            .transpose()?;
        let attended = attention::backward(
            &settings,
            &saved.q,
            &saved.kv,
            saved.past.as_ref(),
            start,
            visible,
            saved.attention,
            &d_attended,
            d_present.as_ref(),
        )?;
        let mut d_past = attended.d_past;
        if let (Some(d_cache), Some(past)) = (d_cache, &saved.past) {
            // the earlier rows are also in the cache afterwards
            let mut kept = d_cache.narrow(1, 0, before)?;
            if past.dim(0)? == 1 {
                kept = sum_sequences(&kept)?.to_dtype(kept.dtype())?;
            }
            d_past = Some(match d_past {
                Some(d_past) => (d_past + kept)?,
                None => kept,
            });
        }
        d_begin.set(slot + KEYS_VALUES, d_past);
        let d_from_q = layer
            .to_q
            .backward(&saved.attention_input, &attended.d_q, compute, gradients)?;
        let d_input =
            layer
                .to_kv
                .backward_onto(d_from_q, &saved.attention_input, &attended.d_kv, compute, gradients)?;
        let d_last = d_state.get(slot + ATTENTION_SHIFT);
        let a = layer
            .attention_norm
            .backward(&saved.attention_norm, &d_input, Some(&f.d_x), d_last, gradients)?;
        d_begin.set(slot + ATTENTION_SHIFT, a.d_previous);
        Ok(a.d_x)
    }

    /// The backward pass of the feed-forward half: returns the gradients of its norm's inputs.
    fn feed_forward_backward(
        &self,
        layer: &Layer,
        index: usize,
        saved: &SavedLayer,
        pass: &Pass,
        d_residual: &Tensor,
        d_added: &Tensor,
        d_last: Option<&Tensor>,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<add_norm::Gradients> {
        let mut d_activated = layer.outer.backward(&saved.activated, d_added, compute, gradients)?;
        if let Some(dropout) = self.feed_forward_dropout(index, Some(pass), &d_activated)? {
            d_activated = dropout::apply(&d_activated, &dropout)?;
        }
        let d_inner = gelu::backward(
            &saved.inner,
            Some(layer.inner_bias.value()),
            &d_activated,
            Some(gradients.of(&layer.inner_bias)),
        )?;
        let d_input = layer
            .inner
            .backward(&saved.feed_forward_input, &d_inner, compute, gradients)?;
        layer
            .feed_forward_norm
            .backward(&saved.feed_forward_norm, &d_input, Some(d_residual), d_last, gradients)
    }
}
