//! What a run knows beside tensors: how far it is, its place in the data, its best models. This is what `state.json` holds.

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::learner::LearnerCounts;
use super::observer::FileLengths;
use crate::data::Position;
use crate::model::Loss;

/// The version of the format that is written, the only one that is read.
pub(super) const FORMAT: u64 = 1;

/// What a run knows beside tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub(super) format: u64,
    /// Batches of the run that are done, gradient steps, what waits for the next step.
    pub counts: LearnerCounts,
    /// The next batch.
    pub next: Position,
    /// The last batch.
    pub last: Position,
    /// Whether the model is to be validated before the next batch.
    pub validation_due: bool,
    /// The loss of the last batch.
    pub last_loss: Option<Loss>,
    /// The best models so far, the best first.
    pub best: Vec<BestModel>,
    /// The lengths of the log files.
    pub files: FileLengths,
    /// What tells the data; `None` in states from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Fingerprint>,
}

/// A model that was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestModel {
    /// The name of its folder in `models`.
    pub folder: String,
    /// Batches that it has learned from.
    pub batches: u64,
    /// Its validation loss; `None` for the last model of a run that validates nothing.
    pub loss: Option<Loss>,
}

impl RunState {
    /// The state of a run before its first batch, which is `next`.
    pub fn new(next: Position) -> Self {
        Self {
            format: FORMAT,
            next,
            ..Self::default()
        }
    }
}

impl RunState {
    /// The state of a run that goes on with other data: losses of before do not compare with those that come.
    pub fn with_other_data(mut self, data: Fingerprint) -> Self {
        self.best.iter_mut().for_each(|model| model.loss = None);
        self.data = Some(data);
        self
    }
}

impl BestModel {
    /// Whether a model of this loss comes before it. Of equal ones the earlier stays before the later.
    pub(super) fn is_worse_than(&self, loss: Loss) -> bool {
        self.loss.is_none_or(|own| loss.mean < own.mean)
    }
}
