//! What a run tells those who watch it: progress bars, log files, tests.

use super::optimizer::GradientNorm;
use super::schedule::Plan;
use crate::Result;
use crate::model::Loss;

/// A moment of a run.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Training begins.
    Start {
        /// The length of the run.
        plan: Plan,
    },
    /// A batch has been learned from.
    Batch(BatchReport),
    /// The model's loss on validation or test data is known.
    Evaluated(Evaluation),
    /// One more batch of an evaluation is done.
    Evaluating {
        /// Batches done.
        done: usize,
        /// Batches of the evaluation.
        of: usize,
    },
}

/// What one training batch did.
#[derive(Clone, Copy, Debug)]
pub struct BatchReport {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Batch within the epoch, from 0.
    pub batch: usize,
    /// Batch within the run, from 0.
    pub cum_batch: u64,
    /// Elements seen by this worker so far, this batch included.
    pub elements_seen: u64,
    /// Bytes of this batch.
    pub bytes: usize,
    /// The loss.
    pub loss: Loss,
    /// The learning rate in force.
    pub rate: f64,
    /// The gradient's norm, if the batch completed a step.
    pub norm: Option<GradientNorm>,
    /// Whether the configuration asks for this loss to be logged (`log_train_loss_amount`).
    pub logged: bool,
}

/// What kind of data a model is evaluated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluationKind {
    /// Validation data during training.
    Validation,
    /// Test data after it.
    Test,
}

/// The result of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation {
    /// On which data.
    pub kind: EvaluationKind,
    /// Batch of the run after which the model was evaluated.
    pub cum_batch: u64,
    /// The loss over all samples.
    pub loss: Loss,
    /// Whether it is the lowest validation loss so far.
    pub best: bool,
}

/// Watches a run.
pub trait Observer {
    /// Called at each event, on the training thread. An error ends the run.
    fn event(&mut self, event: &Event) -> Result<()>;
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _: &Event) -> Result<()> {
        Ok(())
    }
}
