//! Mamba1 stack (arXiv 2312.00752): selective state-space layers with a decay per channel and state entry.
//!
//! ```text
//! each layer   x = x + Mixer(RMSNorm(x))                                  (no final norm)
//! Mixer(u)     [x | z] = W_in u;  x = silu(conv(x));  [δ | B | C] = W_x x;  Δ = W_dt δ + b_dt
//!              W_out (scan(x, softplus Δ, B, C) · silu(z))
//! ```
//!
//! Shapes: u (n, t, d); x, z, Δ (n, t, i) with i = expand · d; δ (n, t, ⌈d / 16⌉); B, C (n, t, N).
//!
//! State, two slots a layer: the last `d_conv` − 1 rows before the convolution (n, d_conv − 1, i), and the scan's state
//! (n, i, N).

use candle_core::{D, Tensor};
use mblm_ops::add_norm::{self, Norm};
use mblm_ops::selective_scan::{self, Inputs};
use mblm_ops::{conv_silu, linear};

use crate::Result;
use crate::config::MambaConfig;
use crate::model::block::{Pass, Saved, StageBlock};
use crate::model::init::Init;
use crate::model::parameter::{Builder, Gradients, Parameter};
use crate::model::state::{State, StateGradient};

/// Slots of the state that one layer has.
const SLOTS: usize = 2;
const CONVOLUTION: usize = 0;
const SCAN: usize = 1;

/// A stack of Mamba1 layers.
pub struct Mamba1 {
    layers: Vec<Layer>,
    inner: usize,
    rank: usize,
    states: usize,
}

struct Layer {
    norm: Parameter,
    in_proj: Parameter,
    conv: Parameter,
    conv_bias: Parameter,
    x_proj: Parameter,
    dt_proj: Parameter,
    dt_bias: Parameter,
    a_log: Parameter,
    d: Parameter,
    out_proj: Parameter,
}

struct SavedLayer {
    residual: Tensor,
    norm: add_norm::Saved,
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

impl Mamba1 {
    /// A stack of `layers` layers of width `dim`.
    pub fn new(config: &MambaConfig, dim: usize, layers: usize, builder: &Builder<'_>) -> Result<Self> {
        let inner = config.expand * dim;
        let rank = dim.div_ceil(16);
        let states = config.d_state;
        let layers = (0..layers)
            .map(|index| {
                let layer = builder.scope("layers").scope(index);
                let mixer = layer.scope("mixer");
                let taps = Init::linear(config.d_conv);
                Ok(Layer {
                    norm: layer.parameter("norm.weight", &[dim], Init::Ones)?,
                    in_proj: mixer.parameter("in_proj.weight", &[2 * inner, dim], Init::linear(dim))?,
                    conv: mixer.parameter("conv1d.weight", &[inner, 1, config.d_conv], taps)?,
                    conv_bias: mixer.parameter("conv1d.bias", &[inner], taps)?,
                    x_proj: mixer.parameter("x_proj.weight", &[rank + 2 * states, inner], Init::linear(inner))?,
                    dt_proj: mixer.parameter("dt_proj.weight", &[inner, rank], Init::linear(rank))?,
                    dt_bias: mixer.parameter("dt_proj.bias", &[inner], Init::TimeStepBias)?,
                    a_log: mixer.parameter("A_log", &[inner, states], Init::LogCount)?,
                    d: mixer.parameter("D", &[inner], Init::Ones)?,
                    out_proj: mixer.parameter("out_proj.weight", &[dim, inner], Init::linear(inner))?,
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
    ) -> Result<(Tensor, Tensor, SavedLayer)> {
        let slot = SLOTS * index;
        let part = |from: &Tensor, start: usize, width: usize| from.narrow(D::Minus1, start, width)?.contiguous();
        let a = add_norm::forward(x, delta, layer.norm.value(), Norm::Eps, None)?;
        let projected = linear::forward(&a.normed, layer.in_proj.value(), None)?; // (n, t, 2i)
        let convolution_input = part(&projected, 0, self.inner)?;
        let z = part(&projected, self.inner, self.inner)?;
        let tail = state.get(slot + CONVOLUTION).cloned();
        let (u, new_tail) = conv_silu::forward(
            &convolution_input,
            layer.conv.value(),
            layer.conv_bias.value(),
            tail.as_ref(),
        )?;
        let selected = linear::forward(&u, layer.x_proj.value(), None)?; // (n, t, rank + 2N)
        let low_rank = part(&selected, 0, self.rank)?;
        let b = part(&selected, self.rank, self.states)?;
        let c = part(&selected, self.rank + self.states, self.states)?;
        let delta = linear::forward(&low_rank, layer.dt_proj.value(), Some(layer.dt_bias.value()))?; // (n, t, i)
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
        let added = linear::forward(&scanned.y, layer.out_proj.value(), None)?; // (n, t, d)
        state.set(slot + CONVOLUTION, new_tail);
        state.set(slot + SCAN, scanned.last);
        let saved = SavedLayer {
            residual: a.residual.clone(),
            norm: a.saved,
            input: a.normed,
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
        Ok((a.residual, added, saved))
    }

    fn layer_backward(
        &self,
        layer: &Layer,
        index: usize,
        saved: SavedLayer,
        d_out: &Tensor,
        d_state: &StateGradient,
        d_begin: &mut StateGradient,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let slot = SLOTS * index;
        let d_y = linear::backward(
            &saved.y,
            layer.out_proj.value(),
            d_out,
            gradients.of(&layer.out_proj),
            None,
        )?;
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
        let [d_dt_proj, d_dt_bias] = gradients.of_each([&layer.dt_proj, &layer.dt_bias]);
        let d_low_rank = linear::backward(
            &saved.low_rank,
            layer.dt_proj.value(),
            &scanned.d_delta,
            d_dt_proj,
            Some(d_dt_bias),
        )?;
        let d_selected = Tensor::cat(&[&d_low_rank, &scanned.d_b, &scanned.d_c], D::Minus1)?;
        let d_from_selected = linear::backward(
            &saved.u,
            layer.x_proj.value(),
            &d_selected,
            gradients.of(&layer.x_proj),
            None,
        )?;
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
        let d_input = linear::backward(
            &saved.input,
            layer.in_proj.value(),
            &d_projected,
            gradients.of(&layer.in_proj),
            None,
        )?;
        let a = add_norm::backward(
            &saved.residual,
            layer.norm.value(),
            Norm::Eps,
            None,
            &saved.norm,
            &d_input,
            Some(d_out),
            None,
            gradients.of(&layer.norm),
        )?;
        Ok(a.d_x)
    }

    fn run(&self, x: &Tensor, state: &mut State, mut keep: impl FnMut(SavedLayer)) -> Result<Tensor> {
        let positions = x.dim(1)?;
        let mut x = x.clone();
        let mut delta = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let (residual, added, saved) = self.layer(layer, index, &x, delta.as_ref(), state)?;
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

impl StageBlock for Mamba1 {
    fn parameters(&self) -> Vec<&Parameter> {
        let mut parameters = Vec::new();
        for layer in &self.layers {
            parameters.extend([
                &layer.norm,
                &layer.in_proj,
                &layer.conv,
                &layer.conv_bias,
                &layer.x_proj,
                &layer.dt_proj,
                &layer.dt_bias,
                &layer.a_log,
                &layer.d,
                &layer.out_proj,
            ]);
        }
        parameters
    }

    fn initial_state(&self) -> State {
        State::empty(SLOTS * self.layers.len())
    }

    fn forward(&self, x: &Tensor, state: &mut State) -> Result<Tensor> {
        self.run(x, state, drop)
    }

    fn forward_train(&self, x: &Tensor, state: &mut State, _pass: &Pass) -> Result<(Tensor, Saved)> {
        let mut layers = Vec::with_capacity(self.layers.len());
        let y = self.run(x, state, |saved| layers.push(saved))?;
        Ok((y, Saved::new(layers)))
    }

    fn backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        d_state: &StateGradient,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, StateGradient)> {
        let layers = saved.take::<Vec<SavedLayer>>()?;
        let mut d_begin = StateGradient::none();
        let mut d_x = dy.clone();
        for (index, (layer, saved)) in self.layers.iter().zip(layers).enumerate().rev() {
            d_x = self.layer_backward(layer, index, saved, &d_x, d_state, &mut d_begin, gradients)?;
        }
        Ok((d_x, d_begin))
    }
}
