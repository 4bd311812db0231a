//! One training step after another: loss and gradients of a batch, accumulation, clipping, the optimizer's step.

use mblm_ops::adam::Adam;

use super::optimizer::{GradientNorm, Optimizer};
use super::schedule::Schedule;
use crate::Result;
use crate::model::{Gradients, Loss, Model, ModelBatch, TrainingPass};

/// How a model learns from batches.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The optimizer's constants.
    pub adam: Adam,
    /// The learning rate of each gradient step.
    pub schedule: Schedule,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: usize,
    /// The largest global L2 norm of the gradient of a step.
    pub clipping: Option<f64>,
    /// Seed of the dropout masks.
    pub seed: u64,
}

/// A model in training, with its optimizer and the gradients accumulated so far.
pub struct Learner<'a> {
    model: &'a Model,
    recipe: Recipe,
    optimizer: Optimizer,
    gradients: Gradients,
    batches: u64,
}

/// What one batch did.
#[derive(Clone, Copy, Debug)]
pub struct Learned {
    /// The batch's loss.
    pub loss: Loss,
    /// The learning rate in force.
    pub rate: f64,
    /// The gradient's norm, if the batch completed a step.
    pub norm: Option<GradientNorm>,
}

impl<'a> Learner<'a> {
    /// A learner at its first step.
    pub fn new(model: &'a Model, recipe: Recipe) -> Result<Self> {
        Ok(Self {
            model,
            optimizer: Optimizer::new(recipe.adam, model.parameters())?,
            gradients: Gradients::zeros(model.parameters())?,
            recipe,
            batches: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The gradients accumulated since the last step.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// Learns from one batch; `batch_index` counts the batches of the epoch from 0, and a step is due when `batch_index` + 1
    /// is a multiple of the recipe's `accumulate`.
    pub fn learn(&mut self, batch: &ModelBatch, batch_index: u64) -> Result<Learned> {
        let rate = self.recipe.schedule.rate(self.optimizer.steps());
        let pass = TrainingPass {
            scale: 1.0 / self.recipe.accumulate as f64,
            seed: self
                .recipe
                .seed
                .wrapping_add(self.batches.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        };
        let loss = self.model.loss_and_gradients(batch, pass, &mut self.gradients)?;
        self.batches += 1;
        let due = (batch_index + 1).is_multiple_of(self.recipe.accumulate as u64);
        let norm = if due && loss.mean.is_finite() {
            let norm = self.optimizer.step(&self.gradients, rate, self.recipe.clipping)?;
            self.gradients.clear()?;
            Some(norm)
        } else {
            None
        };
        Ok(Learned { loss, rate, norm })
    }
}
