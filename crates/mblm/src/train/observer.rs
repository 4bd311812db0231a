//! The events of a run, for progress bars, log files and tests.

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

/// An event of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training begins or resumes.
    Start {
        /// The length of the run.
        plan: RunPlan,
        /// Batches done before: 0 unless resumed.
        done: u64,
    },
    /// A batch of a worker has been trained on; there is one event for each worker, the first
    /// first.
    Batch(BatchReport),
    /// The loss on validation or test data is known.
    Evaluated(Evaluation),
    /// One more batch of an evaluation is done.
    Evaluating {
        /// Batches done.
        done: usize,
        /// Batches of the evaluation.
        of: usize,
    },
    /// A full training state is on disk; a killed run resumes from it.
    StateSaved {
        /// The state's folder.
        folder: &'a Path,
        /// Batches of the run that it contains.
        batches: u64,
    },
    /// A problem that does not end the run, such as a state that could not be written.
    Warning(&'a str),
    /// The run was asked to stop; its state is saved next.
    Stopping,
    /// The run has ended: complete or stopped.
    End {
        /// Batches of the run that are done.
        batches: u64,
        /// Whether it was asked to stop.
        stopped: bool,
    },
}

/// The lengths in bytes of the observers' files, by name in the run's folder. A state stores them,
/// and a resumed run truncates the files to them, so that no row is missing or repeated.
pub type FileLengths = BTreeMap<String, u64>;

/// The result of one training batch of a worker.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BatchReport {
    /// The worker, from 0.
    pub worker: usize,
    /// The workers of the run.
    pub workers: usize,
    /// The mean of the losses of all workers' batches.
    pub mean_loss: Loss,
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
    /// The loss of this worker's batch.
    pub loss: Loss,
    /// The learning rate.
    pub lr: f64,
    /// The gradient's norm, if the batch completed a step.
    pub norm: Option<GradientNorm>,
    /// Whether the configuration logs this loss (`log_train_loss_amount`).
    pub logged: bool,
    /// Time spent in forward passes.
    pub forward: Duration,
    /// Time spent in backward passes and the optimizer's step, if any.
    pub backward: Duration,
}

impl BatchReport {
    /// Throughput of all workers in units per second, forward and backward; 0 if no time elapsed.
    pub fn speed(&self, unit: Unit) -> f64 {
        let seconds = (self.forward + self.backward).as_secs_f64();
        let units = match unit.counted {
            Counted::Ids => self.bytes,
            Counted::Samples => self.samples,
        } * self.workers;
        if seconds > 0.0 { units as f64 / seconds } else { 0.0 }
    }
}

/// The data of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluationKind {
    /// Validation data during training.
    Validation,
    /// Test data after training.
    Test,
}

/// The result of an evaluation.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Evaluation {
    /// The data.
    pub kind: EvaluationKind,
    /// Epoch of the last batch before it.
    pub epoch: usize,
    /// Index within the epoch of the last batch before it.
    pub batch: usize,
    /// Index within the run of the last batch before it, from 0.
    pub cum_batch: u64,
    /// Elements seen by this worker so far.
    pub elements_seen: u64,
    /// Samples evaluated.
    pub samples: usize,
    /// The loss over all samples.
    pub loss: Loss,
    /// The model's additional metric.
    pub metric: Option<Metric>,
    /// Duration of the evaluation.
    pub time: Duration,
    /// Whether the validation loss is the lowest so far.
    pub best: bool,
}

/// Called with the finished and total parts of a batch in chunks, on a computing thread.
pub type OnChunk = Arc<dyn Fn(usize, usize) + Send + Sync>;

/// An observer of a run.
pub trait Observer {
    /// Called at each event, on the training thread. An error ends the run.
    fn event(&mut self, event: &Event<'_>) -> Result<()>;

    /// The callback for the parts of long batches, if any.
    fn on_chunk(&self) -> Option<OnChunk> {
        None
    }

    /// Writes all rows to disk and returns the file lengths; called before a state is saved.
    ///
    /// # Errors
    /// Rows cannot be written: the state is not saved, the run continues, the rows wait for the
    /// next call.
    fn flush(&mut self) -> Result<FileLengths> {
        Ok(FileLengths::new())
    }
}

/// Several observers; each receives every event.
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

/// Observes nothing.
impl Observer for () {
    fn event(&mut self, _: &Event<'_>) -> Result<()> {
        Ok(())
    }
}
