//! What a run tells those who watch it: progress bars, log files, tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::optimizer::GradientNorm;
use super::plan::RunPlan;
use super::trainable::Metric;
use crate::Result;
use crate::model::Loss;
use crate::unit::{Counted, Unit};

/// A moment of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training begins, or goes on.
    Start {
        /// The length of the run.
        plan: RunPlan,
        /// Batches that were done before: 0 unless the run is resumed.
        done: u64,
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
    /// A full training state is on disk: what the run goes on from if it is killed now.
    StateSaved {
        /// The state's folder.
        folder: &'a Path,
        /// Batches of the run that it contains.
        batches: u64,
    },
    /// Something went wrong that does not end the run, such as a state that could not be written.
    Warning(&'a str),
    /// The run was asked to stop: its state is about to be saved.
    Stopping,
    /// The run is over: complete, or asked to stop.
    End {
        /// Batches of the run that are done.
        batches: u64,
        /// Whether it was asked to stop.
        stopped: bool,
    },
}

/// The lengths in bytes of the files that observers append to, by name within the run's folder. A state remembers them; a
/// resumed run cuts the files back to them, so that no row is missing or there twice.
pub type FileLengths = BTreeMap<String, u64>;

/// What one training batch did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BatchReport {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Batch within the epoch, from 0.
    pub batch: usize,
    /// Batch within the run, from 0.
    pub cum_batch: u64,
    /// Elements seen by this worker so far, this batch included.
    pub elements_seen: u64,
    /// Samples of this batch.
    pub samples: usize,
    /// Bytes of this batch.
    pub bytes: usize,
    /// The loss.
    pub loss: Loss,
    /// The learning rate in force.
    pub lr: f64,
    /// The gradient's norm, if the batch completed a step.
    pub norm: Option<GradientNorm>,
    /// Whether the configuration asks for this loss to be logged (`log_train_loss_amount`).
    pub logged: bool,
    /// Time spent in forward passes.
    pub forward: Duration,
    /// Time spent in backward passes and, where the batch completed a step, in the optimizer.
    pub backward: Duration,
}

impl BatchReport {
    /// Units a second, forward and backward together; 0 where no time passed.
    pub fn speed(&self, unit: Unit) -> f64 {
        let seconds = (self.forward + self.backward).as_secs_f64();
        let units = match unit.counted {
            Counted::Ids => self.bytes,
            Counted::Samples => self.samples,
        };
        if seconds > 0.0 { units as f64 / seconds } else { 0.0 }
    }
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
#[non_exhaustive]
pub struct Evaluation {
    /// On which data.
    pub kind: EvaluationKind,
    /// Epoch of the last batch before it.
    pub epoch: usize,
    /// Place within the epoch of the last batch before it.
    pub batch: usize,
    /// Batch of the run after which the model was evaluated, from 0.
    pub cum_batch: u64,
    /// Elements seen by this worker so far.
    pub elements_seen: u64,
    /// Samples that it was evaluated on.
    pub samples: usize,
    /// The loss over all samples.
    pub loss: Loss,
    /// What else the model measures.
    pub metric: Option<Metric>,
    /// How long the evaluation took.
    pub time: Duration,
    /// Whether it is the best so far: the lowest validation loss.
    pub best: bool,
}

/// Told how many of how many parts of a batch are done, where a batch goes in chunks; on a thread that computes.
pub type OnChunk = Arc<dyn Fn(usize, usize) + Send + Sync>;

/// Watches a run.
pub trait Observer {
    /// Called at each event, on the training thread. An error ends the run.
    fn event(&mut self, event: &Event<'_>) -> Result<()>;

    /// What is to be told of the parts of long batches, if anything is.
    fn on_chunk(&self) -> Option<OnChunk> {
        None
    }

    /// Brings everything written so far to the disk and says how long the files are; called before a state is saved.
    ///
    /// # Errors
    /// Rows that cannot be written. The state is then not saved either, the run goes on, and the rows are to be kept for
    /// the next call.
    fn flush(&mut self) -> Result<FileLengths> {
        Ok(FileLengths::new())
    }
}

/// Several observers in one; each hears every event.
pub struct Observers<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Observers<'_> {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        self.0.iter_mut().try_for_each(|observer| observer.event(event))
    }

    fn on_chunk(&self) -> Option<OnChunk> {
        let told: Vec<OnChunk> = (self.0.iter()).filter_map(|observer| observer.on_chunk()).collect();
        match told.is_empty() {
            true => None,
            false => Some(Arc::new(move |done, of| told.iter().for_each(|on| on(done, of)))),
        }
    }

    fn flush(&mut self) -> Result<FileLengths> {
        let mut lengths = FileLengths::new();
        for observer in &mut self.0 {
            lengths.append(&mut observer.flush()?);
        }
        Ok(lengths)
    }
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _: &Event<'_>) -> Result<()> {
        Ok(())
    }
}
