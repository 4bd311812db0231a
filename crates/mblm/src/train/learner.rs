//! One training step after another: loss and gradients of a batch, accumulation, clipping, the optimizer's step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use mblm_ops::cpu::on_workers;
use serde::{Deserialize, Serialize};

use super::optimizer::{GradientNorm, LoadTensor, Optimizer};
use super::recipe::Recipe;
use super::trainable::{TimedLoss, Trainable};
use crate::model::{Compute, Gradients, Loss, ModelBatch, TrainingPass, Watch};
use crate::{Error, Result};

/// A model in training, with its optimizer and the gradients accumulated so far.
pub struct Learner {
    model: Arc<dyn Trainable>,
    recipe: Recipe,
    optimizer: Box<dyn Optimizer>,
    gradients: Gradients,
    batches: u64,
    /// Batches whose gradients wait for the next step.
    pending: u64,
    /// Predictions that counted in them.
    predictions: usize,
}

/// Names of parameters that an error lists.
const NAMES_SHOWN: usize = 8;

const GRADIENT: &str = "gradient";

/// How far a learner is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnerCounts {
    /// Batches learned from.
    pub batches: u64,
    /// Gradient steps taken.
    pub steps: u64,
    /// Batches since the last step, whose gradients wait.
    pub pending: u64,
    /// Predictions that counted in those batches.
    pub predictions: usize,
}

/// What one batch did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LearnedBatch {
    /// The batch's loss.
    pub loss: Loss,
    /// The learning rate in force.
    pub lr: f64,
    /// The gradient's norm, if the batch completed a step.
    pub norm: Option<GradientNorm>,
    /// Time spent in forward passes.
    pub forward: Duration,
    /// Time spent in backward passes and the optimizer.
    pub backward: Duration,
}

impl Learner {
    /// A learner at its first step.
    pub fn new(model: Arc<dyn Trainable>, recipe: Recipe) -> Result<Self> {
        Ok(Self {
            optimizer: recipe.optimizer.build(model.parameters())?,
            gradients: Gradients::zeros(model.parameters())?,
            model,
            recipe,
            batches: 0,
            pending: 0,
            predictions: 0,
        })
    }

    /// A learner that goes on where another one was after `batches` batches and `steps` gradient steps, with the tensors that
    /// `load` gives by name, as [`tensors`](Self::tensors) named them. The model's parameters are the caller's affair.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn resume(
        model: Arc<dyn Trainable>,
        recipe: Recipe,
        counts: LearnerCounts,
        load: &LoadTensor<'_>,
    ) -> Result<Self> {
        let mut learner = Self::new(model, recipe)?;
        learner.optimizer.restore(counts.steps, load)?;
        if counts.pending > 0 {
            for parameter in learner.model.parameters().iter() {
                let gradient = load(&format!("{GRADIENT}.{}", parameter.name()), parameter.value())?;
                learner.gradients.of(parameter).add(&gradient)?;
            }
        }
        learner.batches = counts.batches;
        learner.pending = counts.pending;
        learner.predictions = counts.predictions;
        Ok(learner)
    }

    /// How far it is.
    pub fn counts(&self) -> LearnerCounts {
        LearnerCounts {
            batches: self.batches,
            steps: self.optimizer.steps(),
            pending: self.pending,
            predictions: self.predictions,
        }
    }

    /// All that it carries from batch to batch beside the model's parameters, by name: what the optimizer remembers, such as
    /// `first.NAME`, and while gradients wait for their step `gradient.NAME`.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.optimizer.state();
        if self.pending > 0 {
            let waiting = self.model.parameters().iter().zip(self.gradients.iter());
            tensors.extend(waiting.map(|(parameter, buffer)| {
                let name = format!("{GRADIENT}.{}", parameter.name());
                (name, buffer.tensor().clone())
            }));
        }
        tensors
    }

    /// The model.
    pub fn model(&self) -> &Arc<dyn Trainable> {
        &self.model
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    /// The gradients accumulated since the last step.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// Learns from the next batch, for a loop of one's own: a step is due after every `grad_accum` batches.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn step(&mut self, batch: &ModelBatch) -> Result<LearnedBatch> {
        self.learn(batch, self.batches)
    }

    /// Learns from one batch; `batch_index` counts the batches of the epoch from 0, and a step is due when `batch_index` + 1
    /// is a multiple of the recipe's `grad_accum`. A loss or gradient norm that is not finite changes no parameter.
    ///
    /// # Errors
    /// A parameter that the first step finds without gradient.
    pub fn learn(&mut self, batch: &ModelBatch, batch_index: u64) -> Result<LearnedBatch> {
        self.learn_watched(batch, batch_index, Watch::default())
    }

    /// The same, with what hears of the chunks of a batch that goes in them. It is given up once `watch.stop` is set, unless
    /// gradients of batches before it wait for their step: the learner is then as it was before.
    ///
    /// # Errors
    /// As [`learn`](Self::learn), and [`Error::Stopped`].
    pub fn learn_watched(&mut self, batch: &ModelBatch, batch_index: u64, watch: Watch<'_>) -> Result<LearnedBatch> {
        let stop = watch.stop.filter(|_| self.pending == 0);
        let lr = self.recipe.schedule.lr(self.optimizer.steps());
        let pass = TrainingPass {
            scale: 1.0 / self.recipe.grad_accum as f64,
            seed: self
                .recipe
                .seed
                .wrapping_add(self.batches.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            chunking: self.recipe.chunking,
            compute: Compute::for_training(self.recipe.precision, self.model.device()),
        };
        let begun = Instant::now();
        let found = (self.model).differentiate(batch, pass, &mut self.gradients, Watch { stop, ..watch });
        if matches!(found, Err(Error::Stopped { .. })) {
            self.gradients.clear()?;
        }
        let TimedLoss { loss, backward } = found?;
        let forward = begun.elapsed().saturating_sub(backward);
        self.batches += 1;
        self.pending += 1;
        self.predictions += loss.count;
        let due = (batch_index + 1).is_multiple_of(self.recipe.grad_accum as u64);
        let norm = match due && loss.mean.is_finite() {
            true => Some(self.take_step(lr)?),
            false => None,
        };
        Ok(LearnedBatch {
            loss,
            lr,
            norm,
            forward,
            backward: begun.elapsed().saturating_sub(forward),
        })
    }

    fn take_step(&mut self, lr: f64) -> Result<GradientNorm> {
        if self.optimizer.steps() == 0 && self.predictions > 0 {
            self.check_gradients()?;
        }
        let norm = on_workers(|| self.optimizer.step(&self.gradients, lr, self.recipe.max_grad_norm))?;
        self.gradients.clear()?;
        self.pending = 0;
        self.predictions = 0;
        Ok(norm)
    }

    /// Fails when a parameter has got no gradient: training would never change it.
    fn check_gradients(&self) -> Result<()> {
        let parameters = self.model.parameters().iter().zip(self.gradients.iter());
        let without: Vec<&str> = parameters
            .filter(|(_, buffer)| !buffer.is_touched())
            .map(|(parameter, _)| parameter.name())
            .collect();
        if without.is_empty() {
            return Ok(());
        }
        let shown = without[..without.len().min(NAMES_SHOWN)].join(", ");
        let more = match without.len().checked_sub(NAMES_SHOWN) {
            None | Some(0) => String::new(),
            Some(more) => format!(" and {more} more"),
        };
        Err(Error::input(format!(
            "after the first gradient step every parameter should have received a gradient, but {} of {} did not: {shown}{more}; \
             a block of your own has to use all its parameters, by operations that have a gradient",
            without.len(),
            self.model.parameters().len()
        )))
    }
}
