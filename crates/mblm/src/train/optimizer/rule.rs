//! The interface of optimizers: a spec is plain data, an optimizer carries what it remembers of a model's parameters.

use std::fmt;

use candle_core::Tensor;

use super::clip::{Clipping, GradientNorm};
use crate::Result;
use crate::model::{Gradients, Parameters};

/// The constants of an optimizer, before it meets a model.
pub trait OptimizerSpec: fmt::Debug + Send + Sync {
    /// An optimizer at its first step, which changes these parameters.
    ///
    /// # Errors
    /// Constants that cannot be used, and a device without memory.
    fn build(&self, parameters: &Parameters) -> Result<Box<dyn Optimizer>>;
}

/// Gives the tensor of a name, of the shape, type and device of another one.
pub type LoadTensor<'a> = dyn Fn(&str, &Tensor) -> Result<Tensor> + 'a;

/// What changes a model's parameters, step after step.
pub trait Optimizer: Send {
    /// Moves every parameter by one step, in place, along the negative gradient × `scale`. Whoever changes a parameter by other
    /// means than [`Parameter::set`](crate::model::Parameter::set) says so ([`Parameter::changed`](crate::model::Parameter::changed)).
    ///
    /// # Errors
    /// A failing device.
    fn update(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()>;

    /// The number of steps taken.
    fn steps(&self) -> u64;

    /// What it remembers from step to step, by name, such as `first.NAME` for the parameter NAME. A state keeps these.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Goes on where another one was after `steps` steps, with the tensors that `load` gives by the names of [`state`](Self::state).
    ///
    /// # Errors
    /// Those of `load`.
    fn restore(&mut self, steps: u64, load: &LoadTensor<'_>) -> Result<()>;

    /// One step: scales the gradient so that its global norm is at most `max_grad_norm`, if given, and updates every parameter.
    ///
    /// A gradient whose norm is not finite changes nothing and is no step; the norm says so.
    ///
    /// # Errors
    /// As [`update`](Self::update).
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

/// Tensors of the parameters with their names, `KIND.NAME`.
pub(super) fn named(kind: &str, parameters: &Parameters, tensors: &[Tensor]) -> Vec<(String, Tensor)> {
    let names = parameters
        .iter()
        .map(|parameter| format!("{kind}.{}", parameter.name()));
    names.zip(tensors.iter().cloned()).collect()
}

/// What [`named`] named.
pub(super) fn load_named(kind: &str, parameters: &Parameters, load: &LoadTensor<'_>) -> Result<Vec<Tensor>> {
    let tensors = parameters
        .iter()
        .map(|parameter| load(&format!("{kind}.{}", parameter.name()), parameter.value()));
    tensors.collect()
}
