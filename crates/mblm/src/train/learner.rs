//! Training steps: loss and gradients of a batch, accumulation, clipping, optimizer step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use mblm_ops::cpu::on_workers;
use serde::{Deserialize, Serialize};

use super::optimizer::{GradientNorm, LoadTensor, Optimizer};
use super::parallel::{Peers, worker_seed};
use super::recipe::Recipe;
use super::trainable::Trainable;
use crate::model::{Compute, Gradients, Loss, ModelBatch, TrainingPass, Watch};
use crate::{Error, Result};

/// A model in training, with its optimizer and the gradients accumulated so far.
pub struct Learner {
    model: Arc<dyn Trainable>,
    recipe: Recipe,
    optimizer: Box<dyn Optimizer>,
    gradients: Gradients,
    batches: u64,
    /// Batches accumulated since the last step.
    pending: u64,
    /// Predictions that counted in these batches.
    predictions: usize,
    /// The ranks whose gradients are added up.
    peers: Peers,
}

/// Names of parameters that an error lists.
const NAMES_SHOWN: usize = 8;

const GRADIENT: &str = "gradient";

/// The progress of a learner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnerCounts {
    /// Batches trained on.
    pub batches: u64,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Batches accumulated since the last step.
    pub pending: u64,
    /// Predictions that counted in these batches.
    pub predictions: usize,
}

/// The workers whose batches a learner gets, consecutive ones of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// The first, from 0.
    pub first: usize,
    /// The number of workers of the run; a step takes the mean of their gradients.
    pub all: usize,
}

impl Default for Workers {
    /// A run of one worker.
    fn default() -> Self {
        Self { first: 0, all: 1 }
    }
}

/// The result of training on one batch of each worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LearnedBatch {
    /// The mean of the workers' losses.
    pub loss: Loss,
    /// The loss of each worker's batch.
    pub workers: Vec<Loss>,
    /// The learning rate.
    pub lr: f64,
    /// The gradient's norm, if the batch completed a step.
    pub norm: Option<GradientNorm>,
    /// Time spent in forward passes.
    pub forward: Duration,
    /// Time spent in backward passes and the optimizer.
    pub backward: Duration,
}

/// The passes over a batch of each worker.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) losses: Vec<Loss>,
    /// Time spent in backward passes.
    pub(super) backward: Duration,
}

impl LearnedBatch {
    /// The result of `passed`, whose losses are those of all workers.
    pub(super) fn new(passed: Passed, lr: f64, norm: Option<GradientNorm>, forward: Duration) -> Self {
        Self {
            loss: mean(&passed.losses),
            workers: passed.losses,
            lr,
            norm,
            forward,
            backward: passed.backward,
        }
    }
}

impl Learner {
    /// Creates a learner before its first step.
    pub fn new(model: Arc<dyn Trainable>, recipe: Recipe) -> Result<Self> {
        Ok(Self {
            optimizer: recipe.optimizer.build(model.parameters())?,
            gradients: Gradients::zeros(model.parameters())?,
            model,
            recipe,
            batches: 0,
            pending: 0,
            predictions: 0,
            peers: Peers::default(),
        })
    }

    /// Adds up the gradients of each step over the ranks of a group. All ranks have to make the
    /// same calls, each with the batches of its workers.
    pub(super) fn among(self, peers: Peers) -> Self {
        Self { peers, ..self }
    }

    /// Restores a learner after `batches` batches and `steps` steps. `load` returns the tensors
    /// named by [`tensors`](Self::tensors). The caller restores the model's parameters.
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

    /// The progress so far.
    pub fn counts(&self) -> LearnerCounts {
        LearnerCounts {
            batches: self.batches,
            steps: self.optimizer.steps(),
            pending: self.pending,
            predictions: self.predictions,
        }
    }

    /// The named tensors of the learner's state besides the model's parameters: the optimizer's,
    /// such as `first.NAME`, and any accumulated gradients, `gradient.NAME`.
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

    /// Trains on the next batch, in a custom loop: a step is due after every `grad_accum` batches.
    ///
    /// # Errors
    /// Those of [`learn`](Self::learn).
    pub fn step(&mut self, batch: &ModelBatch) -> Result<LearnedBatch> {
        self.learn(batch, self.batches)
    }

    /// Trains on one batch, `batch_index` (from 0) in its epoch. A step is due if `batch_index` + 1
    /// is a multiple of `grad_accum`. A loss or norm that is not finite changes no parameter.
    ///
    /// # Errors
    /// A parameter without gradient at the first step.
    pub fn learn(&mut self, batch: &ModelBatch, batch_index: u64) -> Result<LearnedBatch> {
        self.learn_watched(batch, batch_index, Watch::default())
    }

    /// [`learn`](Self::learn) with observers of chunks. `watch.stop` abandons the batch and leaves
    /// the learner unchanged, unless gradients of earlier batches have accumulated.
    ///
    /// # Errors
    /// Those of [`learn`](Self::learn), and [`Error::Stopped`].
    pub fn learn_watched(&mut self, batch: &ModelBatch, batch_index: u64, watch: Watch<'_>) -> Result<LearnedBatch> {
        self.learn_workers(std::slice::from_ref(batch), Workers::default(), batch_index, watch)
    }

    /// [`learn_watched`](Self::learn_watched) for a batch of each of several workers: the gradient
    /// of a step is g = 1/(W·k) Σ ∇ℓ over the W workers and the k = `grad_accum` batches, whatever
    /// number of predictions each batch counts.
    ///
    /// # Errors
    /// Those of [`learn_watched`](Self::learn_watched).
    pub fn learn_workers(
        &mut self,
        batches: &[ModelBatch],
        workers: Workers,
        batch_index: u64,
        watch: Watch<'_>,
    ) -> Result<LearnedBatch> {
        let (lr, begun) = (self.lr(), Instant::now());
        let mut passed = self.pass(batches, workers, watch)?;
        let forward = begun.elapsed().saturating_sub(passed.backward);
        let norm = self.complete(&passed.losses, batch_index)?;
        passed.backward = begun.elapsed().saturating_sub(forward);
        Ok(LearnedBatch::new(passed, lr, norm, forward))
    }

    /// The learning rate of the next step.
    pub(super) fn lr(&self) -> f64 {
        self.recipe.schedule.lr(self.optimizer.steps())
    }

    /// Adds the gradients of a batch of each of several workers, and counts nothing.
    pub(super) fn pass(&mut self, batches: &[ModelBatch], workers: Workers, watch: Watch<'_>) -> Result<Passed> {
        let stop = watch.stop.filter(|_| self.pending == 0);
        let (mut losses, mut backward) = (Vec::with_capacity(batches.len()), Duration::ZERO);
        for (worker, batch) in (workers.first..).zip(batches) {
            let pass = TrainingPass {
                scale: 1.0 / (self.recipe.grad_accum * workers.all) as f64,
                seed: self.seed(worker),
                chunking: self.recipe.chunking,
                compute: Compute::for_training(self.recipe.precision, self.model.device()),
            };
            let found = (self.model).differentiate(batch, pass, &mut self.gradients, Watch { stop, ..watch });
            if matches!(found, Err(Error::Stopped { .. })) {
                self.gradients.clear()?;
            }
            let found = found?;
            backward += found.backward;
            losses.push(found.loss);
        }
        Ok(Passed { losses, backward })
    }

    /// Moves the gradients that wait for a step to rank 0: their sum is unchanged.
    pub(super) fn gather_pending(&mut self) -> Result<()> {
        if self.peers.alone() {
            return Ok(());
        }
        self.peers.add_up(&mut self.gradients)?;
        match self.peers.writes() {
            true => Ok(()),
            false => self.gradients.clear(),
        }
    }

    /// Sets the gradients to zero; the batches that wait for a step count as before.
    pub(super) fn clear_gradients(&mut self) -> Result<()> {
        self.gradients.clear()
    }

    /// Counts a batch of each worker, and takes a step if one is due. `losses` are those of all
    /// workers of the run.
    pub(super) fn complete(&mut self, losses: &[Loss], batch_index: u64) -> Result<Option<GradientNorm>> {
        self.batches += 1;
        self.pending += 1;
        self.predictions += losses.iter().map(|loss| loss.count).sum::<usize>();
        let lr = self.lr();
        let due = (batch_index + 1).is_multiple_of(self.recipe.grad_accum as u64);
        match due && losses.iter().all(|loss| loss.mean.is_finite()) {
            true => self.take_step(lr).map(Some),
            false => Ok(None),
        }
    }

    /// The seed of a worker's dropout masks for the next batch.
    fn seed(&self, worker: usize) -> u64 {
        worker_seed(self.recipe.seed, worker).wrapping_add(self.batches.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn take_step(&mut self, lr: f64) -> Result<GradientNorm> {
        if self.optimizer.steps() == 0 && self.predictions > 0 {
            self.check_gradients()?;
        }
        self.peers.add_up(&mut self.gradients)?;
        let norm = on_workers(|| self.optimizer.step(&self.gradients, lr, self.recipe.max_grad_norm))?;
        self.gradients.clear()?;
        self.pending = 0;
        self.predictions = 0;
        Ok(norm)
    }

    /// Fails if a parameter has no gradient: training would never change it.
    fn check_gradients(&self) -> Result<()> {
        let touched = self.peers.touched(&self.gradients)?;
        let parameters = self.model.parameters().iter().zip(touched);
        let without: Vec<&str> = parameters
            .filter(|(_, touched)| !touched)
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
            "after the first gradient step every parameter should have received a gradient, but {} of {} did not: \
             {shown}{more}; your own block must use all its parameters in operations that have a gradient",
            without.len(),
            self.model.parameters().len()
        )))
    }
}

/// The mean of the workers' losses, of which each counts the same.
fn mean(losses: &[Loss]) -> Loss {
    Loss {
        mean: losses.iter().map(|loss| loss.mean).sum::<f64>() / losses.len().max(1) as f64,
        count: losses.iter().map(|loss| loss.count).sum(),
        weighted: losses.iter().any(|loss| loss.weighted),
    }
}
