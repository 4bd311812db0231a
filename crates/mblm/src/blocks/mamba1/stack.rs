//! Mamba1 stack (arXiv 2312.00752): state-space layers with a decay per channel and state entry.
//!
//! ```text
//! each layer   x = x + Mixer(RMSNorm(x))                                  (no final norm)
//! Mixer(u)     [x | z] = W_in u;  x = silu(conv(x));  [δ | B | C] = W_x x;  Δ = W_dt δ + b_dt
//!              W_out (scan(x, softplus Δ, B, C) · silu(z))
//! ```
//!
//! Shapes: u (n, t, d); x, z, Δ (n, t, i) with i = expand · d; δ (n, t, ⌈d / 16⌉); B, C (n, t, N).
//!
//! State, two slots per layer: the last `d_conv` − 1 rows before the convolution
//! (n, d_conv − 1, i), and the scan's state (n, i, N).

use candle_core::{D, Tensor};
use mblm_ops::add_norm::Norm;
use mblm_ops::conv_silu;
use mblm_ops::device::readable;
use mblm_ops::selective_scan::{self, Inputs};

use super::keys::Mamba1;
use crate::Result;
use crate::model::block::{Pass, Saved, StageBlock};
use crate::model::compute::Compute;
use crate::model::gradients::Gradients;
use crate::model::init::Init;
use crate::model::layers::{AddNorm, Linear, SavedNorm};
use crate::model::parameter::{Builder, Parameter};
use crate::model::state::State;
use crate::model::state_gradient::StateGradient;

/// Slots of the state per layer.
const SLOTS: usize = 2;
const CONVOLUTION: usize = 0;
const SCAN: usize = 1;

/// A stack of Mamba1 layers.
pub(super) struct Stack {
    layers: Vec<Layer>,
    inner: usize,
    rank: usize,
    states: usize,
}

struct Layer {
    norm: AddNorm,
    in_proj: Linear,
    conv: Parameter,
    conv_bias: Parameter,
    x_proj: Linear,
    dt_proj: Linear,
    a_log: Parameter,
    d: Parameter,
    out_proj: Linear,
}

struct SavedLayer {
    norm: SavedNorm,
    input: Tensor,
    convolution_input: Tensor,
    tail: Option<Tensor>,
    u: Tensor,
    low_rank: Tensor,
    delta: Tensor,
    b: Tensor,
    c: Tensor,
    z: Tensor,
    initial: Option<Tensor>,
    scan: selective_scan::Saved,
    y: Tensor,
}

impl Stack {
    /// A stack of `layers` layers of width `dim`.
    pub(super) fn new(config: &Mamba1, dim: usize, layers: usize, builder: &Builder<'_>) -> Result<Self> {
        let inner = config.expand * dim;
        let rank = dim.div_ceil(16);
        let states = config.d_state;
        let layers = (0..layers)
            .map(|index| {
                let layer = builder.scope("layers").scope(index);
                let mixer = layer.scope("mixer");
                let taps = Init::linear(config.d_conv);
                let projection = |name, inputs, outputs| {
                    Linear::without_bias(&mixer.scope(name), inputs, outputs, Init::linear(inputs))
                };
                Ok(Layer {
                    norm: AddNorm::new(&layer, "norm.weight", dim, Norm::Eps)?,
                    in_proj: projection("in_proj", dim, 2 * inner)?,
                    conv: mixer.parameter("conv1d.weight", &[inner, 1, config.d_conv], taps)?,
                    conv_bias: mixer.parameter("conv1d.bias", &[inner], taps)?,
                    x_proj: projection("x_proj", inner, rank + 2 * states)?,
                    dt_proj: Linear::with_bias(&mixer.scope("dt_proj"), rank, inner, Init::TimeStepBias)?,
                    a_log: mixer.parameter("A_log", &[inner, states], Init::LogCount)?,
                    d: mixer.parameter("D", &[inner], Init::Ones)?,
                    out_proj: projection("out_proj", inner, dim)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            layers,
            inner,
            rank,
            states,
        })
    }

    fn layer(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        delta: Option<&Tensor>,
        state: &mut State,
        compute: &Compute,
    ) -> Result<(Tensor, Tensor, SavedLayer)> {
        let slot = SLOTS * index;
        let part = |from: &Tensor, start: usize, width: usize| readable(from.narrow(D::Minus1, start, width)?);
        let a = layer.norm.forward(x, delta, None)?;
        let projected = layer.in_proj.forward(&a.out, compute)?; // (n, t, 2i)
        let convolution_input = part(&projected, 0, self.inner)?;
        let z = part(&projected, self.inner, self.inner)?;
        let tail = state.get(slot + CONVOLUTION).cloned();
        let (u, new_tail) = conv_silu::forward(
            &convolution_input,
            layer.conv.value(),
            layer.conv_bias.value(),
            tail.as_ref(),
        )?;
        let selected = layer.x_proj.forward(&u, compute)?; // (n, t, rank + 2N)
        let low_rank = part(&selected, 0, self.rank)?;
        let b = part(&selected, self.rank, self.states)?;
        let c = part(&selected, self.rank + self.states, self.states)?;
        let delta = layer.dt_proj.forward(&low_rank, compute)?; // (n, t, i)
        let initial = state.get(slot + SCAN).cloned();
        let scanned = selective_scan::forward(&Inputs {
            u: &u,
            delta: &delta,
            a_log: layer.a_log.value(),
            b: &b,
            c: &c,
            d: layer.d.value(),
            z: &z,
            initial: initial.as_ref(),
        })?;
        let added = layer.out_proj.forward(&scanned.y, compute)?; // (n, t, d)
        state.set(slot + CONVOLUTION, new_tail);
        state.set(slot + SCAN, scanned.last);
        let residual = a.saved.residual.clone();
        let saved = SavedLayer {
            norm: a.saved,
            input: a.out,
            convolution_input,
            tail,
            u,
            low_rank,
            delta,
            b,
            c,
            z,
            initial,
            scan: scanned.saved,
            y: scanned.y,
        };
        Ok((residual, added, saved))
    }

    fn layer_backward(
        &self,
        layer: &Layer,
        index: usize,
        saved: SavedLayer,
        d_out: &Tensor,
        d_state: &StateGradient,
        d_begin: &mut StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let slot = SLOTS * index;
        let d_y = layer.out_proj.backward(&saved.y, d_out, compute, gradients)?;
        let [d_a_log, d_d] = gradients.of_each([&layer.a_log, &layer.d]);
        let scanned = selective_scan::backward(
            &Inputs {
                u: &saved.u,
                delta: &saved.delta,
                a_log: layer.a_log.value(),
                b: &saved.b,
                c: &saved.c,
                d: layer.d.value(),
                z: &saved.z,
                initial: saved.initial.as_ref(),
            },
            saved.scan,
            &d_y,
            d_state.get(slot + SCAN),
            d_a_log,
            d_d,
        )?;
        d_begin.set(slot + SCAN, scanned.d_initial);
        let d_low_rank = layer
            .dt_proj
            .backward(&saved.low_rank, &scanned.d_delta, compute, gradients)?;
        let d_selected = Tensor::cat(&[&d_low_rank, &scanned.d_b, &scanned.d_c], D::Minus1)?;
        let d_from_selected = layer.x_proj.backward(&saved.u, &d_selected, compute, gradients)?;
        let [d_conv, d_conv_bias] = gradients.of_each([&layer.conv, &layer.conv_bias]);
        let (d_convolution_input, d_tail) = conv_silu::backward(
            &saved.convolution_input,
            layer.conv.value(),
            layer.conv_bias.value(),
            saved.tail.as_ref(),
            &(scanned.d_u + d_from_selected)?,
            d_state.get(slot + CONVOLUTION),
            d_conv,
            d_conv_bias,
        )?;
        d_begin.set(slot + CONVOLUTION, d_tail);
        let d_projected = Tensor::cat(&[&d_convolution_input, &scanned.d_z], D::Minus1)?;
        let d_input = layer.in_proj.backward(&saved.input, &d_projected, compute, gradients)?;
        let a = layer
            .norm
            .backward(&saved.norm, &d_input, Some(d_out), None, gradients)?;
        Ok(a.d_x)
    }

    fn run(
        &self,
        x: &Tensor,
        state: &mut State,
        compute: &Compute,
        mut keep: impl FnMut(SavedLayer),
    ) -> Result<Tensor> {
        let positions = x.dim(1)?;
        let mut x = x.clone();
        let mut delta = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let (residual, added, saved) = self.layer(layer, index, &x, delta.as_ref(), state, compute)?;
            (x, delta) = (residual, Some(added));
            keep(saved);
        }
        state.advance(positions);
        match delta {
            Some(delta) => Ok((x + delta)?),
            None => Ok(x),
        }
    }
}

impl StageBlock for Stack {
    fn parameters(&self) -> Vec<&Parameter> {
        let mut parameters = Vec::new();
        for layer in &self.layers {
            parameters.push(layer.norm.parameter());
            for linear in [&layer.in_proj, &layer.x_proj, &layer.dt_proj, &layer.out_proj] {
                parameters.extend(linear.parameters());
            }
            parameters.extend([&layer.conv, &layer.conv_bias, &layer.a_log, &layer.d]);
        }
        parameters
    }

    fn initial_state(&self) -> State {
        State::empty(SLOTS * self.layers.len())
    }

    fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor> {
        self.run(x, state, compute, drop)
    }

    fn takes_half_precision(&self) -> bool {
        true
    }

    fn forward_train(&self, x: &Tensor, state: &mut State, _pass: &Pass, compute: &Compute) -> Result<(Tensor, Saved)> {
        let mut layers = Vec::with_capacity(self.layers.len());
        let y = self.run(x, state, compute, |saved| layers.push(saved))?;
        Ok((y, Saved::new(layers)))
    }

    fn backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        d_state: &StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, StateGradient)> {
        let layers = saved.take::<Vec<SavedLayer>>()?;
        let mut d_begin = StateGradient::none();
        let mut d_x = dy.clone();
        for (index, (layer, saved)) in self.layers.iter().zip(layers).enumerate().rev() {
            d_x = self.layer_backward(layer, index, saved, &d_x, d_state, &mut d_begin, compute, gradients)?;
        }
        Ok((d_x, d_begin))
    }
}
