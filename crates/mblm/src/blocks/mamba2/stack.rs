//! Mamba2 stack (arXiv 2405.21060): state-space layers with a scalar decay per head.
//!
//! ```text
//! each layer   r = x + r;  x = Mixer(RMSNorm(r))                   (initially r = input, x = 0)
//! at the end   RMSNorm(x + r)
//! Mixer(u)     [z | xBC | dt] = W_in u;  xBC = silu(conv(xBC));  y = scan(xBC, dt);
//!              W_out RMSNorm(y · silu(z))
//! ```
//!
//! Shapes: u (n, t, d); z (n, t, i), i = expand · d; xBC (n, t, i + 2·N); dt (n, t, H) with
//! `H = i / headdim`.
//!
//! State, two slots per layer: the last `d_conv` − 1 rows before the convolution
//! (n, d_conv − 1, i + 2·N), and the scan's state (n, H, headdim, N).

use candle_core::{D, Tensor};
use mblm_ops::add_norm::Norm;
use mblm_ops::device::readable;
use mblm_ops::dropout::{self, Dropout};
use mblm_ops::ssd::{self, Ssd};
use mblm_ops::{conv_silu, gated_norm};

use super::keys::Mamba2;
use crate::Result;
use crate::model::block::{Pass, Saved, StageBlock};
use crate::model::compute::Compute;
use crate::model::gradients::Gradients;
use crate::model::init::Init;
use crate::model::layers::{AddNorm, Linear, Normed, SavedNorm};
use crate::model::parameter::{Builder, Parameter};
use crate::model::state::State;
use crate::model::state_gradient::StateGradient;

/// Positions that the scan processes at once, as matrix products.
const CHUNK: usize = 64;
/// Slots of the state per layer.
const SLOTS: usize = 2;
const CONVOLUTION: usize = 0;
const SCAN: usize = 1;

/// A stack of Mamba2 layers with its final norm.
pub(super) struct Stack {
    layers: Vec<Layer>,
    norm: AddNorm,
    scan: Ssd,
    inner: usize,
    dropout: f64,
}

struct Layer {
    norm: AddNorm,
    in_proj: Linear,
    conv: Parameter,
    conv_bias: Parameter,
    dt_bias: Parameter,
    a_log: Parameter,
    d: Parameter,
    gated_norm: Parameter,
    out_proj: Linear,
}

struct SavedLayer {
    norm: SavedNorm,
    input: Tensor,
    z: Tensor,
    convolution_input: Tensor,
    tail: Option<Tensor>,
    xbc: Tensor,
    dt: Tensor,
    initial: Option<Tensor>,
    scan: ssd::Saved,
    y: Tensor,
    gated: gated_norm::Saved,
    output: Tensor,
}

struct SavedStack {
    layers: Vec<SavedLayer>,
    norm: SavedNorm,
    dropout: Option<Dropout>,
}

impl Stack {
    /// A stack of `layers` layers of width `dim`.
    pub(super) fn new(config: &Mamba2, dim: usize, layers: usize, builder: &Builder<'_>) -> Result<Self> {
        let inner = config.expand * dim;
        let heads = inner / config.headdim;
        let mixed = inner + 2 * config.d_state;
        let depth = layers as f64;
        let layers = (0..layers)
            .map(|index| {
                let layer = builder.scope("layers").scope(index);
                let mixer = layer.scope("mixer");
                let taps = Init::linear(config.d_conv);
                Ok(Layer {
                    norm: AddNorm::new(&layer, "norm.weight", dim, Norm::Eps)?,
                    in_proj: Linear::without_bias(
                        &mixer.scope("in_proj"),
                        dim,
                        inner + mixed + heads,
                        Init::linear(dim),
                    )?,
                    conv: mixer.parameter("conv1d.weight", &[mixed, 1, config.d_conv], taps)?,
                    conv_bias: mixer.parameter("conv1d.bias", &[mixed], taps)?,
                    dt_bias: mixer.parameter("dt_bias", &[heads], Init::TimeStepBias)?,
                    a_log: mixer.parameter("A_log", &[heads], Init::LogUniform)?,
                    d: mixer.parameter("D", &[heads], Init::Ones)?,
                    gated_norm: mixer.parameter("norm.weight", &[inner], Init::Ones)?,
                    out_proj: Linear::without_bias(
                        &mixer.scope("out_proj"),
                        inner,
                        dim,
                        Init::Uniform(1.0 / (inner as f64 * depth).sqrt()),
                    )?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            layers,
            norm: AddNorm::new(builder, "norm_f.weight", dim, Norm::Eps)?,
            scan: Ssd {
                heads,
                head_dim: config.headdim,
                state: config.d_state,
                chunk: CHUNK,
            },
            inner,
            dropout: config.dropout,
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
        let mixed = self.inner + 2 * self.scan.state;
        let a = layer.norm.forward(x, delta, None)?;
        let projected = layer.in_proj.forward(&a.out, compute)?; // (n, t, i + (i + 2N) + H)
        let z = readable(projected.narrow(D::Minus1, 0, self.inner)?)?;
        let convolution_input = readable(projected.narrow(D::Minus1, self.inner, mixed)?)?;
        let dt = readable(projected.narrow(D::Minus1, self.inner + mixed, self.scan.heads)?)?;
        let tail = state.get(slot + CONVOLUTION).cloned();
        let (xbc, new_tail) = conv_silu::forward(
            &convolution_input,
            layer.conv.value(),
            layer.conv_bias.value(),
            tail.as_ref(),
        )?;
        let initial = state.get(slot + SCAN).cloned();
        let scanned = ssd::forward(&self.scan, &inputs(layer, &xbc, &dt, initial.as_ref()))?;
        let (output, gated) = gated_norm::forward(&scanned.y, &z, layer.gated_norm.value())?;
        let added = layer.out_proj.forward(&output, compute)?; // (n, t, d)
        state.set(slot + CONVOLUTION, new_tail);
        state.set(slot + SCAN, scanned.last);
        let residual = a.saved.residual.clone();
        let saved = SavedLayer {
            norm: a.saved,
            input: a.out,
            z,
            convolution_input,
            tail,
            xbc,
            dt,
            initial,
            scan: scanned.saved,
            y: scanned.y,
            gated,
            output,
        };
        Ok((residual, added, saved))
    }

    fn layer_backward(
        &self,
        layer: &Layer,
        index: usize,
        saved: SavedLayer,
        d_residual: &Tensor,
        d_added: &Tensor,
        d_state: &StateGradient,
        d_begin: &mut StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let slot = SLOTS * index;
        let d_output = layer.out_proj.backward(&saved.output, d_added, compute, gradients)?;
        let (d_y, d_z) = gated_norm::backward(
            &saved.y,
            &saved.z,
            layer.gated_norm.value(),
            &saved.gated,
            &d_output,
            gradients.of(&layer.gated_norm),
        )?;
        let [a_log, d, dt_bias] = gradients.of_each([&layer.a_log, &layer.d, &layer.dt_bias]);
        let scanned = ssd::backward(
            &self.scan,
            &inputs(layer, &saved.xbc, &saved.dt, saved.initial.as_ref()),
            saved.scan,
            &d_y,
            d_state.get(slot + SCAN),
            ssd::ParameterGradients { a_log, d, dt_bias },
        )?;
        d_begin.set(slot + SCAN, scanned.d_initial);
        let [d_conv, d_conv_bias] = gradients.of_each([&layer.conv, &layer.conv_bias]);
        let (d_convolution_input, d_tail) = conv_silu::backward(
            &saved.convolution_input,
            layer.conv.value(),
            layer.conv_bias.value(),
            saved.tail.as_ref(),
            &scanned.d_xbc,
            d_state.get(slot + CONVOLUTION),
            d_conv,
            d_conv_bias,
        )?;
        d_begin.set(slot + CONVOLUTION, d_tail);
        let d_projected = Tensor::cat(&[&d_z, &d_convolution_input, &scanned.d_dt], D::Minus1)?;
        let d_input = layer.in_proj.backward(&saved.input, &d_projected, compute, gradients)?;
        let a = layer
            .norm
            .backward(&saved.norm, &d_input, Some(d_residual), None, gradients)?;
        Ok(a.d_x)
    }

    /// Runs all layers: the residual stream, and the last mixer's output, not yet added to it.
    fn run(
        &self,
        x: &Tensor,
        state: &mut State,
        compute: &Compute,
        mut keep: impl FnMut(SavedLayer),
    ) -> Result<(Tensor, Option<Tensor>)> {
        let positions = x.dim(1)?;
        let (mut x, mut delta) = (x.clone(), None);
        for (index, layer) in self.layers.iter().enumerate() {
            let (residual, added, saved) = self.layer(layer, index, &x, delta.as_ref(), state, compute)?;
            (x, delta) = (residual, Some(added));
            keep(saved);
        }
        state.advance(positions);
        Ok((x, delta))
    }

    /// The final norm, after dropout of the last mixer's output.
    fn finish(&self, x: &Tensor, delta: Option<Tensor>, dropout: Option<&Dropout>) -> Result<Normed> {
        let delta = match (delta, dropout) {
            (Some(delta), Some(dropout)) => Some(dropout::apply(&delta, dropout)?),
            (delta, _) => delta,
        };
        self.norm.forward(x, delta.as_ref(), None)
    }
}

fn inputs<'a>(layer: &'a Layer, xbc: &'a Tensor, dt: &'a Tensor, initial: Option<&'a Tensor>) -> ssd::Inputs<'a> {
    ssd::Inputs {
        xbc,
        dt,
        a_log: layer.a_log.value(),
        d: layer.d.value(),
        dt_bias: layer.dt_bias.value(),
        initial,
    }
}

impl StageBlock for Stack {
    fn parameters(&self) -> Vec<&Parameter> {
        let mut parameters = Vec::new();
        for layer in &self.layers {
            parameters.push(layer.norm.parameter());
            parameters.extend(layer.in_proj.parameters().chain(layer.out_proj.parameters()));
            parameters.extend([
                &layer.conv,
                &layer.conv_bias,
                &layer.dt_bias,
                &layer.a_log,
                &layer.d,
                &layer.gated_norm,
            ]);
        }
        parameters.push(self.norm.parameter());
        parameters
    }

    fn initial_state(&self) -> State {
        State::empty(SLOTS * self.layers.len())
    }

    fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor> {
        let (x, delta) = self.run(x, state, compute, drop)?;
        Ok(self.finish(&x, delta, None)?.out)
    }

    fn takes_half_precision(&self) -> bool {
        true
    }

    fn has_dropout(&self) -> bool {
        self.dropout > 0.0
    }

    fn forward_train(&self, x: &Tensor, state: &mut State, pass: &Pass, compute: &Compute) -> Result<(Tensor, Saved)> {
        let (_, positions, dim) = x.dims3()?;
        let mut layers = Vec::with_capacity(self.layers.len());
        let (x, delta) = self.run(x, state, compute, |saved| layers.push(saved))?;
        let dropout = self.has_dropout().then(|| Dropout {
            probability: self.dropout,
            key: pass.key(self.layers.len(), 0),
            first: (pass.first_sequence * positions * dim) as u64,
        });
        let Normed { out, saved: norm } = self.finish(&x, delta, dropout.as_ref())?;
        let saved = SavedStack { layers, norm, dropout };
        Ok((out, Saved::new(saved)))
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
        let mut d_x = last.d_x;
        let mut d_added = match &saved.dropout {
            Some(dropout) => dropout::apply(&d_x, dropout)?,
            None => d_x.clone(),
        };
        for (index, (layer, saved)) in self.layers.iter().zip(saved.layers).enumerate().rev() {
            d_x = self.layer_backward(
                layer,
                index,
                saved,
                &d_x,
                &d_added,
                d_state,
                &mut d_begin,
                compute,
                gradients,
            )?;
            d_added = d_x.clone();
        }
        Ok((d_x, d_begin))
    }
}
