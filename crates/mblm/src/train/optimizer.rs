//! Gradient clipping and Adam over all parameters of a model, in place.

use candle_core::Tensor;
use mblm_ops::GradBuffer;
use mblm_ops::adam::{self, Adam, Sums};

use crate::Result;
use crate::config::{OptimizerKind, TrainConfig};
use crate::model::{Gradients, Parameter, Parameters};

/// The constants of the published recipe: β = (0.9, 0.95), ε = 1e-8, no weight decay.
pub const PUBLISHED_ADAM: Adam = Adam {
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.0,
};

/// The constants that a configuration means: those of the published recipe, with its weight decay for AdamW.
pub(crate) fn configured(train: &TrainConfig) -> Adam {
    Adam {
        weight_decay: match train.optimizer {
            OptimizerKind::Adam => 0.0,
            OptimizerKind::AdamW => train.weight_decay,
        },
        ..PUBLISHED_ADAM
    }
}

/// Adam with its moments, one pair for each parameter.
pub struct Optimizer {
    adam: Adam,
    parameters: Parameters,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: u64,
}

/// The global L2 norm of the gradient of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientNorm {
    /// Before clipping.
    pub before: f64,
    /// After clipping.
    pub after: f64,
    /// The mean over all parameters of the mean of their gradient's elements, before clipping: the number that the Python
    /// package logs as `avg_grad`.
    pub mean: f64,
}

impl Optimizer {
    /// Moments of zero for all `parameters`.
    pub fn new(adam: Adam, parameters: &Parameters) -> Result<Self> {
        let zeros = || -> Result<Vec<Tensor>> {
            parameters
                .iter()
                .map(|parameter| Ok(parameter.value().zeros_like()?))
                .collect()
        };
        Ok(Self {
            adam,
            parameters: parameters.clone(),
            first: zeros()?,
            second: zeros()?,
            steps: 0,
        })
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// First and second moments by parameter, in the order of the model's parameters.
    pub fn moments(&self) -> (&[Tensor], &[Tensor]) {
        (&self.first, &self.second)
    }

    /// Continues from the moments of an earlier run after `steps` steps.
    pub fn restore(&mut self, first: Vec<Tensor>, second: Vec<Tensor>, steps: u64) {
        (self.first, self.second, self.steps) = (first, second, steps);
    }

    /// One step: scales the gradient so that its global norm is at most `clip`, if given, and updates every parameter.
    ///
    /// A gradient whose norm is not finite changes nothing and is no step; the norm says so.
    pub fn step(&mut self, gradients: &Gradients, rate: f64, clip: Option<f64>) -> Result<GradientNorm> {
        let buffers: Vec<_> = gradients.iter().collect();
        let sums = adam::sums(&buffers)?;
        let before = adam::global_norm(&sums);
        if !before.is_finite() {
            return Ok(GradientNorm {
                before,
                after: before,
                mean: f64::NAN,
            });
        }
        let mean = mean_of_means(&buffers, &sums);
        // the published recipe's clipping: the small constant keeps a zero norm from dividing
        let scale = clip.map_or(1.0, |clip| (clip / (before + 1e-6)).min(1.0));
        let mut parameters: Vec<adam::Parameter<'_>> = self
            .parameters
            .iter()
            .zip(buffers)
            .zip(self.first.iter().zip(&self.second))
            .map(|((parameter, gradient), (m, v))| adam::Parameter {
                value: parameter.value(),
                gradient,
                m,
                v,
            })
            .collect();
        self.steps += 1;
        adam::step(&self.adam, rate, self.steps, scale, &mut parameters)?;
        self.parameters.iter().for_each(Parameter::changed);
        Ok(GradientNorm {
            before,
            after: before * scale,
            mean,
        })
    }
}

/// The mean over all buffers of the mean of their elements.
fn mean_of_means(buffers: &[&GradBuffer], sums: &[Sums]) -> f64 {
    let means = buffers
        .iter()
        .zip(sums)
        .map(|(buffer, sums)| sums.plain / buffer.tensor().elem_count() as f64);
    means.sum::<f64>() / buffers.len().max(1) as f64
}
