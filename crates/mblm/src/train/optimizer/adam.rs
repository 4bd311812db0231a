//! Adam as published, and AdamW: Adam with decoupled weight decay of all parameters or of some.
//!
//! [`mblm_ops::adam`] has the formula; parameters without weight decay use a decay of 0.

use candle_core::Tensor;
use mblm_ops::adam;

use super::decayed::decayed;
use super::rule::{LoadTensor, Optimizer, OptimizerSpec, load_named, named, zeros};
use crate::Result;
use crate::config::DecayedParameters;
use crate::model::{Gradients, Parameter, Parameters};

/// Adam without weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the mean of gradients, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the mean square; ≥ 0.
    pub eps: f64,
}

/// Adam with decoupled weight decay.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// The constants shared with Adam.
    pub adam: Adam,
    /// Share of a value, times the learning rate, that each step subtracts; ≥ 0.
    pub weight_decay: f64,
    /// The parameters that decay.
    pub decayed: DecayedParameters,
}

impl Default for Adam {
    /// The constants of the published recipe: β = (0.9, 0.95), ε = 1e-8.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
        }
    }
}

impl Default for AdamW {
    /// The published recipe's constants, and a weight decay of 0.1 for all parameters.
    fn default() -> Self {
        Self {
            adam: Adam::default(),
            weight_decay: 0.1,
            decayed: DecayedParameters::All,
        }
    }
}

impl OptimizerSpec for Adam {
    fn build(&self, parameters: &Parameters) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Moments::new(
            *self,
            0.0,
            vec![false; parameters.len()],
            parameters,
        )?))
    }
}

impl OptimizerSpec for AdamW {
    /// # Errors
    /// Also a pattern that matches no parameter.
    fn build(&self, parameters: &Parameters) -> Result<Box<dyn Optimizer>> {
        let decays = decayed(&self.decayed, parameters)?;
        Ok(Box::new(Moments::new(
            self.adam,
            self.weight_decay,
            decays,
            parameters,
        )?))
    }
}

const FIRST: &str = "first";
const SECOND: &str = "second";

/// Adam with its moments, one pair for each parameter.
struct Moments {
    /// The constants of parameters without decay.
    plain: adam::Adam,
    /// The constants of parameters with decay.
    decaying: adam::Adam,
    /// Whether a parameter decays, in the order of the parameters.
    decays: Vec<bool>,
    parameters: Parameters,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    steps: u64,
}

impl Moments {
    fn new(adam: Adam, weight_decay: f64, decays: Vec<bool>, parameters: &Parameters) -> Result<Self> {
        let Adam { beta1, beta2, eps } = adam;
        let with = |weight_decay| adam::Adam {
            beta1,
            beta2,
            eps,
            weight_decay,
        };
        Ok(Self {
            plain: with(0.0),
            decaying: with(weight_decay),
            decays,
            parameters: parameters.clone(),
            first: zeros(parameters)?,
            second: zeros(parameters)?,
            steps: 0,
        })
    }

    /// The parameters with or without decay, for one step.
    fn group<'a>(&'a self, gradients: &'a Gradients, decay: bool) -> Vec<adam::Parameter<'a>> {
        let moments = self.first.iter().zip(&self.second);
        let all = self.parameters.iter().zip(gradients.iter()).zip(moments);
        let group = all.zip(&self.decays).filter(|(_, decays)| **decays == decay);
        group
            .map(|(((parameter, gradient), (m, v)), _)| adam::Parameter {
                value: parameter.value(),
                gradient,
                m,
                v,
            })
            .collect()
    }
}

impl Optimizer for Moments {
    fn update(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        let step = self.steps + 1;
        for (constants, decay) in [(&self.plain, false), (&self.decaying, true)] {
            adam::step(constants, lr, step, scale, &mut self.group(gradients, decay))?;
        }
        self.steps = step;
        self.parameters.iter().for_each(Parameter::changed);
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = named(FIRST, &self.parameters, &self.first);
        state.extend(named(SECOND, &self.parameters, &self.second));
        state
    }

    fn restore(&mut self, steps: u64, load: &LoadTensor<'_>) -> Result<()> {
        let first = load_named(FIRST, &self.parameters, load)?;
        let second = load_named(SECOND, &self.parameters, load)?;
        (self.first, self.second, self.steps) = (first, second, steps);
        Ok(())
    }
}
