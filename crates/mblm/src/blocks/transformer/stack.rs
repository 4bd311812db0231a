//! Transformer stack: a decoder (causal, token shift) or an encoder (bidirectional, key mask).
//!
//! ```text
//! each layer   x = x + W_o · attention(q, k, v)        q = W_q a, [k | v] = W_kv a,
//!                                                      a = RMSNorm(shift(x))
//!              x = x + W_2 · gelu(W_1 f + b_1) + b_2   f = RMSNorm(shift(x))
//! at the end   RMSNorm(x)
//! ```
//!
//! `shift` takes the second half of the channels from the previous position; the encoder has none.
//! Shapes: x (n, t, d), q (n, t, h·d_h), [k | v] (n, t, 2·h·d_h), inner activations (n, t, m·d).
//!
//! State of the decoder, three slots per layer: the last input row of the attention's shift
//! (n, 1, d); keys (rotated) and values of all positions so far (n, s, 2·h·d_h); the last input row
//! of the feed-forward's shift (n, 1, d).

mod decode;
mod layer_backward;

use candle_core::Tensor;
use mblm_ops::add_norm::Norm;
use mblm_ops::attention::{self, Attention};
use mblm_ops::dropout::{self, Dropout};
use mblm_ops::gelu;

use super::keys::Transformer;
use crate::Result;
use crate::model::block::{Pass, Saved, StageBlock};
use crate::model::compute::Compute;
use crate::model::gradients::Gradients;
use crate::model::init::Init;
use crate::model::layers::{AddNorm, Linear, Normed, SavedNorm};
use crate::model::parameter::{Builder, Parameter};
use crate::model::state::State;
use crate::model::state_gradient::StateGradient;

/// Slots of the decoder's state per layer.
const SLOTS: usize = 3;
const ATTENTION_SHIFT: usize = 0;
const KEYS_VALUES: usize = 1;
const FEED_FORWARD_SHIFT: usize = 2;

/// A stack of Transformer layers with its final norm.
pub(in crate::blocks) struct Stack {
    layers: Vec<Layer>,
    norm: AddNorm,
    attention: Attention,
    attention_dropout: f64,
    feed_forward_dropout: f64,
    dim: usize,
}

struct Layer {
    attention_norm: AddNorm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    feed_forward_norm: AddNorm,
    inner: Linear,
    /// The bias of `inner`, added together with the activation.
    inner_bias: Parameter,
    outer: Linear,
}

/// The values of one layer that its backward pass needs.
struct SavedLayer {
    attention_norm: SavedNorm,
    attention_input: Tensor,
    q: Tensor,
    kv: Tensor,
    past: Option<Tensor>,
    attention: attention::Saved,
    attended: Tensor,
    feed_forward_norm: SavedNorm,
    feed_forward_input: Tensor,
    inner: Tensor,
    activated: Tensor,
}

struct SavedStack {
    layers: Vec<SavedLayer>,
    norm: SavedNorm,
    start: usize,
    pass: Pass,
    visible: Option<Tensor>,
}

impl Stack {
    /// A causal stack of `layers` layers of width `dim`, for a decoder's stage.
    pub(in crate::blocks) fn decoder(
        config: &Transformer,
        dim: usize,
        layers: usize,
        builder: &Builder<'_>,
    ) -> Result<Self> {
        Self::new(config, dim, layers, builder, true)
    }

    /// A bidirectional stack of `layers` layers of width `dim`, for an encoder's stage.
    pub(in crate::blocks) fn encoder(
        config: &Transformer,
        dim: usize,
        layers: usize,
        builder: &Builder<'_>,
    ) -> Result<Self> {
        Self::new(config, dim, layers, builder, false)
    }

    fn new(config: &Transformer, dim: usize, layers: usize, builder: &Builder<'_>, causal: bool) -> Result<Self> {
        let width = config.attn_num_heads * config.attn_head_dims;
        let inner = config.ff_multiplier * dim;
        let layers = (0..layers)
            .map(|index| {
                let layer = builder.scope("layers").scope(index);
                let (attention, feed_forward) = (layer.scope(0), layer.scope(1));
                let projection = |name, inputs, outputs| {
                    Linear::without_bias(&attention.scope(name), inputs, outputs, Init::linear(inputs))
                };
                Ok(Layer {
                    attention_norm: AddNorm::new(&attention, "norm.g", dim, Norm::Clamped)?,
                    to_q: projection("to_q", dim, width)?,
                    to_kv: projection("to_kv", dim, 2 * width)?,
                    to_out: projection("to_out", width, dim)?,
                    feed_forward_norm: AddNorm::new(&feed_forward, "0.g", dim, Norm::Clamped)?,
                    inner: Linear::without_bias(&feed_forward.scope(1), dim, inner, Init::linear(dim))?,
                    inner_bias: feed_forward.parameter("1.bias", &[inner], Init::linear(dim))?,
                    outer: Linear::new(&feed_forward.scope(4), inner, dim)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            layers,
            norm: AddNorm::new(builder, "norm.g", dim, Norm::Clamped)?,
            attention: Attention {
                heads: config.attn_num_heads,
                head_dim: config.attn_head_dims,
                rotary: config.attn_use_rot_embs,
                causal,
                dropout: None,
            },
            attention_dropout: config.attn_dropout,
            feed_forward_dropout: config.ff_dropout,
            dim,
        })
    }

    /// Maps `x` (n, t, d) to (n, t, d); `visible` (n, t) `u8` marks the positions that are seen.
    pub(in crate::blocks) fn encode(&self, x: &Tensor, visible: Option<&Tensor>, compute: &Compute) -> Result<Tensor> {
        let (x, delta) = self.run(x, &mut self.initial_state(), visible, None, compute, drop)?;
        Ok(self.norm.forward(&x, delta.as_ref(), None)?.out)
    }

    /// [`encode`](Self::encode) that also returns what the backward pass needs.
    pub(in crate::blocks) fn encode_train(
        &self,
        x: &Tensor,
        visible: Option<&Tensor>,
        pass: &Pass,
        compute: &Compute,
    ) -> Result<(Tensor, Saved)> {
        self.train(x, &mut self.initial_state(), visible, pass, compute)
    }

    /// Returns the gradient of the input of [`encode_train`](Self::encode_train) from its result's.
    pub(in crate::blocks) fn encode_backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        Ok(self.backward(saved, dy, &StateGradient::none(), compute, gradients)?.0)
    }

    fn train(
        &self,
        x: &Tensor,
        state: &mut State,
        visible: Option<&Tensor>,
        pass: &Pass,
        compute: &Compute,
    ) -> Result<(Tensor, Saved)> {
        let start = state.position();
        let mut layers = Vec::with_capacity(self.layers.len());
        let (x, delta) = self.run(x, state, visible, Some(pass), compute, |saved| layers.push(saved))?;
        let Normed { out, saved: norm } = self.norm.forward(&x, delta.as_ref(), None)?;
        let saved = SavedStack {
            layers,
            norm,
            start,
            pass: *pass,
            visible: visible.cloned(),
        };
        Ok((out, Saved::new(saved)))
    }

    /// Runs all layers: the residual stream, and the last layer's output, not yet added to it.
    fn run(
        &self,
        x: &Tensor,
        state: &mut State,
        visible: Option<&Tensor>,
        pass: Option<&Pass>,
        compute: &Compute,
        mut keep: impl FnMut(SavedLayer),
    ) -> Result<(Tensor, Option<Tensor>)> {
        let positions = x.dim(1)?;
        let (mut x, mut delta) = (x.clone(), None);
        for (index, layer) in self.layers.iter().enumerate() {
            let (residual, added, saved) =
                self.layer(layer, index, &x, delta.as_ref(), state, visible, pass, compute)?;
            (x, delta) = (residual, Some(added));
            keep(saved);
        }
        state.advance(positions);
        Ok((x, delta))
    }

    /// The attention's parameters for one layer of a training pass, or of inference.
    fn attention_for(&self, index: usize, pass: Option<&Pass>, positions: usize, keys: usize) -> Attention {
        let dropout = pass.filter(|_| self.attention_dropout > 0.0).map(|pass| Dropout {
            probability: self.attention_dropout,
            key: pass.key(index, 0),
            first: (pass.first_sequence * self.attention.heads * positions * keys) as u64,
        });
        Attention {
            dropout,
            ..self.attention.clone()
        }
    }

    fn feed_forward_dropout(&self, index: usize, pass: Option<&Pass>, inner: &Tensor) -> Result<Option<Dropout>> {
        let per_sequence = inner.dim(1)? * inner.dim(2)?;
        Ok(pass.filter(|_| self.feed_forward_dropout > 0.0).map(|pass| Dropout {
            probability: self.feed_forward_dropout,
            key: pass.key(index, 1),
            first: (pass.first_sequence * per_sequence) as u64,
        }))
    }

    /// The row before the first for a token shift, zeros at the beginning; `None` for the encoder.
    fn shift_row(&self, state: &State, slot: usize, like: &Tensor) -> Result<Option<Tensor>> {
        if !self.attention.causal {
            return Ok(None);
        }
        match state.get(slot) {
            Some(row) => Ok(Some(row.clone())),
            None => Ok(Some(Tensor::zeros((1, 1, self.dim), like.dtype(), like.device())?)),
        }
    }

    /// Runs one layer: from (x, delta), whose sum is the residual stream, to the next such pair.
    fn layer(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        delta: Option<&Tensor>,
        state: &mut State,
        visible: Option<&Tensor>,
        pass: Option<&Pass>,
        compute: &Compute,
    ) -> Result<(Tensor, Tensor, SavedLayer)> {
        let slot = SLOTS * index;
        let positions = x.dim(1)?;
        let shift = self.shift_row(state, slot + ATTENTION_SHIFT, x)?;
        let a = layer.attention_norm.forward(x, delta, shift)?;
        let q = layer.to_q.forward(&a.out, compute)?; // (n, t, h·d_h)
        let kv = layer.to_kv.forward(&a.out, compute)?; // (n, t, 2·h·d_h)
        let past = state.get(slot + KEYS_VALUES).cloned();
        let keys = positions + past.as_ref().map_or(Ok(0), |past| past.dim(1))?;
        let settings = self.attention_for(index, pass, positions, keys);
        let attended = attention::forward(&settings, &q, &kv, past.as_ref(), state.position(), visible)?;
        let out = layer.to_out.forward(&attended.out, compute)?; // (n, t, d)

        let shift = self.shift_row(state, slot + FEED_FORWARD_SHIFT, x)?;
        let f = layer.feed_forward_norm.forward(&a.saved.residual, Some(&out), shift)?;
        let inner = layer.inner.forward(&f.out, compute)?; // (n, t, m·d)
        let mut activated = gelu::forward(&inner, Some(layer.inner_bias.value()))?;
        if let Some(dropout) = self.feed_forward_dropout(index, pass, &activated)? {
            activated = dropout::apply(&activated, &dropout)?;
        }
        let added = layer.outer.forward(&activated, compute)?;

        if self.attention.causal && pass.is_none_or(|pass| pass.keeps_state) {
            let last = |rows: &Tensor| rows.narrow(1, positions - 1, 1)?.contiguous();
            state.set(slot + ATTENTION_SHIFT, last(&a.saved.residual)?);
            state.append(slot + KEYS_VALUES, &attended.present)?;
            state.set(slot + FEED_FORWARD_SHIFT, last(&f.saved.residual)?);
        }
        let residual = f.saved.residual.clone();
        let saved = SavedLayer {
            attention_norm: a.saved,
            attention_input: a.out,
            q,
            kv,
            past,
            attention: attended.saved,
            attended: attended.out,
            feed_forward_norm: f.saved,
            feed_forward_input: f.out,
            inner,
            activated,
        };
        Ok((residual, added, saved))
    }
}

impl StageBlock for Stack {
    fn parameters(&self) -> Vec<&Parameter> {
        let mut parameters = Vec::new();
        for layer in &self.layers {
            parameters.extend([layer.attention_norm.parameter(), layer.feed_forward_norm.parameter()]);
            for linear in [&layer.to_q, &layer.to_kv, &layer.to_out, &layer.inner, &layer.outer] {
                parameters.extend(linear.parameters());
            }
            parameters.push(&layer.inner_bias);
        }
        parameters.push(self.norm.parameter());
        parameters
    }

    fn initial_state(&self) -> State {
        State::empty(SLOTS * self.layers.len())
    }

    fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor> {
        if let Some(y) = self.step(x, state)? {
            return Ok(y);
        }
        let (x, delta) = self.run(x, state, None, None, compute, drop)?;
        Ok(self.norm.forward(&x, delta.as_ref(), None)?.out)
    }

    fn takes_half_precision(&self) -> bool {
        true
    }

    fn has_dropout(&self) -> bool {
        self.attention_dropout > 0.0 || self.feed_forward_dropout > 0.0
    }

    fn forward_train(&self, x: &Tensor, state: &mut State, pass: &Pass, compute: &Compute) -> Result<(Tensor, Saved)> {
        self.train(x, state, None, pass, compute)
    }

    fn backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        d_state: &StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, StateGradient)> {
        let saved = saved.take::<SavedStack>()?;
        let last = self.norm.backward(&saved.norm, dy, None, None, gradients)?;
        let mut d_begin = StateGradient::none();
        // residual stream and pending delta have equal gradients: the next norm sees their sum
        let mut d_x = last.d_x;
        let stack = (saved.start, &saved.pass, saved.visible.as_ref());
        for (index, (layer, saved)) in self.layers.iter().zip(saved.layers).enumerate().rev() {
            d_x = self.layer_backward(
                layer,
                index,
                saved,
                stack,
                &d_x,
                &d_x,
                d_state,
                &mut d_begin,
                compute,
                gradients,
            )?;
        }
        Ok((d_x, d_begin))
    }
}
