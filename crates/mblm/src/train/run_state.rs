//! The state of a run besides tensors: progress, data position, best models (`state.json`).

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::learner::LearnerCounts;
use super::observer::FileLengths;
use crate::data::Position;
use crate::model::Loss;
use crate::{Error, Result};

/// The format version that is written, and the only one that is read.
pub(super) const FORMAT: u64 = 1;

/// The state of a run besides tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub(super) format: u64,
    /// Batches, optimizer steps, and what has accumulated for the next step.
    pub counts: LearnerCounts,
    /// The next batch.
    pub next: Position,
    /// The last batch.
    pub last: Position,
    /// Whether to validate before the next batch.
    pub validation_due: bool,
    /// The loss of the last batch.
    pub last_loss: Option<Loss>,
    /// The best models so far, the best first.
    pub best: Vec<BestModel>,
    /// Validations since the lowest loss.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_best: usize,
    /// The workers of the run.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub workers: usize,
    /// The lengths of the log files.
    pub files: FileLengths,
    /// The fingerprint of the data; `None` in states older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Fingerprint>,
}

fn one() -> usize {
    1
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A kept model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestModel {
    /// The name of its folder in `models`.
    pub folder: String,
    /// Batches trained on.
    pub batches: u64,
    /// The validation loss; `None` for the last model of a run without validation.
    pub loss: Option<Loss>,
}

impl RunState {
    /// The state of a run before its first batch, which is `next`.
    pub fn new(next: Position) -> Self {
        Self {
            format: FORMAT,
            workers: 1,
            next,
            ..Self::default()
        }
    }

    /// Fails unless the run began with this number of workers.
    ///
    /// # Errors
    /// Another number.
    pub fn check_workers(&self, workers: usize) -> Result<()> {
        let before = self.workers;
        match before == workers {
            true => Ok(()),
            false => Err(Error::config(format!(
                "train.workers is {workers}: expected {before}, with which the run began; any number of processes that divides \
                 it can continue the run"
            ))),
        }
    }

    /// Sets the number of workers.
    pub(super) fn with_workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }
}

impl RunState {
    /// The state of a run resumed with other data: earlier losses do not compare, so they are
    /// dropped.
    pub fn with_other_data(mut self, data: Fingerprint) -> Self {
        self.best.iter_mut().for_each(|model| model.loss = None);
        self.since_best = 0;
        self.data = Some(data);
        self
    }
}

impl BestModel {
    /// Whether a model of this loss ranks before it. Of equal models the earlier ranks first.
    pub(super) fn is_worse_than(&self, loss: Loss) -> bool {
        self.loss.is_none_or(|own| loss.mean < own.mean)
    }
}
