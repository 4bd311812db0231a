//! The configuration of a run besides the model: a part of an [`Experiment`], or of another kind.

use super::plan::RunPlan;
use crate::config::{Experiment, IoConfig, TrainConfig};
use crate::data::Position;
use crate::unit::Unit;

/// The configuration of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The number of validations, logs and kept models.
    pub io: IoConfig,
    /// How the model is trained.
    pub train: TrainConfig,
    /// Ids per sample, which the data set has to match; counts for `target_elements` in bytes.
    pub sample_len: usize,
    /// The unit of losses and speeds.
    pub unit: Unit,
    /// The first batch of a new run.
    pub start: Position,
}

impl RunConfig {
    /// The configuration for a model of bytes, from the beginning of its data.
    pub fn new(io: IoConfig, train: TrainConfig, sample_len: usize) -> Self {
        Self {
            io,
            train,
            sample_len,
            unit: Unit::BYTE,
            start: Position::default(),
        }
    }

    /// The length of the run.
    pub fn plan(&self) -> RunPlan {
        RunPlan::new(&self.train, self.sample_len)
    }
}

/// The run of an experiment; its data begin at the position in the map `resume`, if present.
impl From<&Experiment> for RunConfig {
    fn from(experiment: &Experiment) -> Self {
        let Experiment {
            io,
            params,
            train,
            resume,
            ..
        } = experiment;
        let start = resume.as_ref().map_or(Position::default(), |resume| Position {
            epoch: resume.next_epoch_index,
            batch: resume.next_batch_index,
        });
        Self {
            start,
            ..Self::new(io.clone(), train.clone(), params.input_seq_len)
        }
    }
}
