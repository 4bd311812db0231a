//! The interface of optimizers: a spec is plain data, an optimizer has state for a model.

use std::fmt;

use candle_core::Tensor;

use super::clip::{Clipping, GradientNorm};
use crate::Result;
use crate::model::{Gradients, Parameters};

/// The constants of an optimizer, independent of a model.
pub trait OptimizerSpec: fmt::Debug + Send + Sync {
    /// Creates an optimizer of these parameters, before its first step.
    ///
    /// # Errors
    /// Invalid constants, or a device without memory.
    fn build(&self, parameters: &Parameters) -> Result<Box<dyn Optimizer>>;
}

/// Returns the tensor of a name, in the shape and type and on the device of another tensor.
pub type LoadTensor<'a> = dyn Fn(&str, &Tensor) -> Result<Tensor> + 'a;

/// Updates a model's parameters, step by step.
pub trait Optimizer: Send {
    /// Moves every parameter by one step, in place, along the negative gradient × `scale`. After a
    /// change other than by [`Parameter::set`](crate::model::Parameter::set), the implementation
    /// calls [`Parameter::changed`](crate::model::Parameter::changed).
    ///
    /// # Errors
    /// A failing device.
    fn update(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()>;

    /// The number of steps taken.
    fn steps(&self) -> u64;

    /// The named tensors of the optimizer's state, such as `first.NAME` for the parameter NAME.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Restores the state after `steps` steps; `load` returns the tensors named by `state`.
    ///
    /// # Errors
    /// Those of `load`.
    fn restore(&mut self, steps: u64, load: &LoadTensor<'_>) -> Result<()>;

    /// Runs one step: clips the gradient's norm to `max_grad_norm`, if given, and updates
    /// parameters.
    ///
    /// A gradient whose norm is not finite changes nothing and is not a step; the norm shows it.
    ///
    /// # Errors
    /// Those of [`update`](Self::update).
    fn step(&mut self, gradients: &Gradients, lr: f64, max_grad_norm: Option<f64>) -> Result<GradientNorm> {
        let clipping = Clipping::of(gradients, max_grad_norm)?;
        if let Some(scale) = clipping.scale {
            self.update(gradients, lr, scale)?;
        }
        Ok(clipping.norm)
    }
}

/// Tensors of zeros like the parameters.
pub(super) fn zeros(parameters: &Parameters) -> Result<Vec<Tensor>> {
    let zeros = parameters.iter().map(|parameter| Ok(parameter.value().zeros_like()?));
    zeros.collect()
}

/// The tensors with names `KIND.NAME`, NAME being the parameter's.
pub(super) fn named(kind: &str, parameters: &Parameters, tensors: &[Tensor]) -> Vec<(String, Tensor)> {
    let names = parameters
        .iter()
        .map(|parameter| format!("{kind}.{}", parameter.name()));
    names.zip(tensors.iter().cloned()).collect()
}

/// Loads the tensors that [`named`] named.
pub(super) fn load_named(kind: &str, parameters: &Parameters, load: &LoadTensor<'_>) -> Result<Vec<Tensor>> {
    let tensors = parameters
        .iter()
        .map(|parameter| load(&format!("{kind}.{}", parameter.name()), parameter.value()));
    tensors.collect()
}
