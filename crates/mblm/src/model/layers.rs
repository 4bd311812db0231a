//! The layers that blocks are made of: an operation together with its parameters.

use candle_core::Tensor;
use mblm_ops::add_norm::{self, Norm};
use mblm_ops::linear;

use super::compute::Compute;
use super::gradients::Gradients;
use super::init::Init;
use super::parameter::{Builder, Parameter};
use crate::Result;

/// y = x Wᵀ + b over the last dimension; W is `weight` (outputs, inputs), b is `bias` (outputs).
pub(crate) struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// With bias; weight and bias start uniform in ±1/√inputs.
    pub(crate) fn new(builder: &Builder<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        Self::with_bias(builder, inputs, outputs, Init::linear(inputs))
    }

    /// With bias, initialized by `bias`.
    pub(crate) fn with_bias(builder: &Builder<'_>, inputs: usize, outputs: usize, bias: Init) -> Result<Self> {
        Ok(Self {
            weight: builder.linear_weight(&[outputs, inputs], Init::linear(inputs))?,
            bias: Some(builder.parameter("bias", &[outputs], bias)?),
        })
    }

    /// Without bias.
    pub(crate) fn without_bias(builder: &Builder<'_>, inputs: usize, outputs: usize, init: Init) -> Result<Self> {
        Ok(Self {
            weight: builder.linear_weight(&[outputs, inputs], init)?,
            bias: None,
        })
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    /// The weight in the type of `x`.
    pub(crate) fn weight_for(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.weight_for(x)
    }

    /// The bias, where there is one.
    pub(crate) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref().map(Parameter::value)
    }

    /// (…, inputs) → (…, outputs).
    pub(crate) fn forward(&self, x: &Tensor, compute: &Compute) -> Result<Tensor> {
        let (weight, bias) = (self.weight.weight_for(x)?, self.bias.as_ref().map(Parameter::value));
        Ok(match compute.packed_of(&self.weight) {
            Some(packed) => linear::forward_packed(x, &weight, packed, bias)?,
            None => linear::forward_with(compute.products(), x, &weight, bias)?,
        })
    }

    /// Returns the gradient of `x`; adds the gradients of weight and bias to their buffers.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        self.backward_from(None, x, dy, compute, gradients)
    }

    /// The same, added to `sum`, which may be overwritten: nobody else may hold it.
    pub(crate) fn backward_onto(
        &self,
        sum: Tensor,
        x: &Tensor,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        self.backward_from(Some(sum), x, dy, compute, gradients)
    }

    fn backward_from(
        &self,
        sum: Option<Tensor>,
        x: &Tensor,
        dy: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (d_weight, d_bias) = match &self.bias {
            Some(bias) => {
                let [d_weight, d_bias] = gradients.of_each([&self.weight, bias]);
                (d_weight, Some(d_bias))
            }
            None => (gradients.of(&self.weight), None),
        };
        let weight = self.weight.weight_for(x)?;
        let products = compute.products();
        Ok(linear::backward_onto(products, sum, x, &weight, dy, d_weight, d_bias)?)
    }
}

/// Adds a layer's output to the residual stream and normalizes it, with an optional token shift.
pub(crate) struct AddNorm {
    gain: Parameter,
    norm: Norm,
}

/// The outputs of [`AddNorm`].
pub(crate) struct Normed {
    /// The input of the layer (n, t, d).
    pub(crate) out: Tensor,
    /// For the backward pass; includes the residual stream.
    pub(crate) saved: SavedNorm,
}

/// The values that the backward pass of [`AddNorm`] needs.
pub(crate) struct SavedNorm {
    /// The residual stream (n, t, d) after the addition.
    pub(crate) residual: Tensor,
    previous: Option<Tensor>,
    saved: add_norm::Saved,
}

impl AddNorm {
    /// A norm over `dim` channels with the gain `name`.
    pub(crate) fn new(builder: &Builder<'_>, name: &str, dim: usize, norm: Norm) -> Result<Self> {
        Ok(Self {
            gain: builder.parameter(name, &[dim], Init::Ones)?,
            norm,
        })
    }

    pub(crate) fn parameter(&self) -> &Parameter {
        &self.gain
    }

    /// Norm of x + `delta` (n, t, d). `previous` (n|1, 1, d), the row before the first, turns on
    /// the token shift.
    pub(crate) fn forward(&self, x: &Tensor, delta: Option<&Tensor>, previous: Option<Tensor>) -> Result<Normed> {
        let output = add_norm::forward(x, delta, self.gain.value(), self.norm, previous.as_ref())?;
        Ok(Normed {
            out: output.normed,
            saved: SavedNorm {
                residual: output.residual,
                previous,
                saved: output.saved,
            },
        })
    }

    /// Returns the gradients of x (equal to the gradient of `delta`) and of `previous`, given the
    /// gradients of the result, of the residual stream, and of its last row as a state, if any.
    pub(crate) fn backward(
        &self,
        saved: &SavedNorm,
        d_out: &Tensor,
        d_residual: Option<&Tensor>,
        d_last: Option<&Tensor>,
        gradients: &mut Gradients,
    ) -> Result<add_norm::Gradients> {
        Ok(add_norm::backward(
            &saved.residual,
            self.gain.value(),
            self.norm,
            saved.previous.as_ref(),
            &saved.saved,
            d_out,
            d_residual,
            d_last,
            gradients.of(&self.gain),
        )?)
    }
}
