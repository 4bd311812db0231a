//! Stochastic gradient descent with optional momentum.
//!
//! ```text
//! g = scale · gradient      velocity = momentum · velocity + g      value = value − lr · velocity
//! ```
//!
//! Equal to torch.optim.SGD without dampening and weight decay.

use candle_core::Tensor;
use mblm_ops::cpu::par_map;

use super::rule::{LoadTensor, Optimizer, OptimizerSpec, load_named, named, zeros};
use crate::model::{Gradients, Parameters};
use crate::{Error, Result};

/// Stochastic gradient descent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// The share of the last velocity that is kept, in [0, 1).
    pub momentum: f64,
}

impl OptimizerSpec for Sgd {
    fn build(&self, parameters: &Parameters) -> Result<Box<dyn Optimizer>> {
        if !(0.0..1.0).contains(&self.momentum) {
            let found = self.momentum;
            return Err(Error::input(format!(
                "sgd: expected a momentum in [0, 1), found {found}"
            )));
        }
        let velocity = match self.momentum > 0.0 {
            true => Some(zeros(parameters)?),
            false => None,
        };
        Ok(Box::new(Descent {
            momentum: self.momentum,
            parameters: parameters.clone(),
            velocity,
            steps: 0,
        }))
    }
}

const VELOCITY: &str = "velocity";

struct Descent {
    momentum: f64,
    parameters: Parameters,
    /// One per parameter; `None` without momentum.
    velocity: Option<Vec<Tensor>>,
    steps: u64,
}

impl Optimizer for Descent {
    fn update(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        let (momentum, velocity) = (self.momentum, self.velocity.as_deref());
        let items: Vec<_> = self.parameters.iter().zip(gradients.iter()).enumerate().collect();
        let on_cpu = items
            .iter()
            .all(|(_, (parameter, _))| parameter.value().device().is_cpu());
        let moved = par_map(items, on_cpu, |_, (index, (parameter, buffer))| -> Result<Tensor> {
            let value = parameter.value();
            let gradient = (buffer.tensor().to_dtype(value.dtype())? * scale)?;
            let step = match velocity {
                Some(velocity) => ((&velocity[index] * momentum)? + gradient)?,
                None => gradient,
            };
            parameter.set(&(value - (&step * lr)?)?)?;
            Ok(step)
        });
        let steps = moved.into_iter().collect::<Result<Vec<_>>>()?;
        if velocity.is_some() {
            self.velocity = Some(steps);
        }
        self.steps += 1;
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let velocity = self.velocity.as_deref().unwrap_or_default();
        named(VELOCITY, &self.parameters, velocity)
    }

    fn restore(&mut self, steps: u64, load: &LoadTensor<'_>) -> Result<()> {
        if self.velocity.is_some() {
            self.velocity = Some(load_named(VELOCITY, &self.parameters, load)?);
        }
        self.steps = steps;
        Ok(())
    }
}
