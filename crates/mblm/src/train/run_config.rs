//! What a run is told beside the model: a part of an [`Experiment`], or of the configuration of another kind of model.

use super::plan::RunPlan;
use crate::config::{Experiment, IoConfig, TrainConfig};
use crate::data::Position;
use crate::unit::Unit;

/// The configuration of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// How often it validates and logs, how many models it keeps.
    pub io: IoConfig,
    /// How the model is trained.
    pub train: TrainConfig,
    /// Ids per sample, which the data set has to agree with: what `target_elements` counts where it counts bytes.
    pub sample_len: usize,
    /// What losses and speeds are counted in.
    pub unit: Unit,
    /// The first batch of a run that begins anew.
    pub start: Position,
}

impl RunConfig {
    /// A run of a model of bytes, from the beginning of its data.
    pub fn new(io: IoConfig, train: TrainConfig, sample_len: usize) -> Self {
        Self {
            io,
            train,
            sample_len,
            unit: Unit::BYTE,
            start: Position::default(),
        }
    }

    /// The length of the run on one worker.
    pub fn plan(&self) -> RunPlan {
        RunPlan::new(&self.train, self.sample_len, 1)
    }
}

/// What the experiment says of the run; its data begin where the map `resume` says, if it is there.
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
