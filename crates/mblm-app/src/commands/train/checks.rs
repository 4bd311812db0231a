//! Checks before a run starts or resumes: the sample length, and whether the data have changed
//! since the run began.

use anyhow::Result;
use mblm::config::{Architecture, Experiment};
use mblm::train::{Fingerprint, SavedState, TrainingData};

use super::args::TrainArgs;
use crate::usage::Usage;

/// Fails if a decoder's samples have only one patch of the first stage: the first stage's output is
/// for later patches, so it would learn nothing.
pub(super) fn check_length(experiment: &Experiment) -> Result<(), Usage> {
    let (model, len) = (experiment.params.architecture.model(), experiment.params.input_seq_len);
    let patch = model.patch_bytes(0);
    let decoder = matches!(experiment.params.architecture, Architecture::Decoder(_));
    match decoder && model.seq_lens.len() > 1 && len <= patch {
        true => Err(Usage(format!(
            "params.input_seq_len is {len}: expected more than one patch of the first stage, {patch} bytes; its output is for the patches \
             after it, so that it would learn nothing"
        ))),
        false => Ok(()),
    }
}

/// Fails if `train.early_stopping` has no validation loss to look at.
pub(super) fn check_early_stopping(experiment: &Experiment, data: &TrainingData) -> Result<(), Usage> {
    match (experiment.train.early_stopping, &data.validation) {
        (Some(_), None) => Err(Usage(
            "train.early_stopping needs validation data, found none: hold out a share with io.dataset_args.held_out, or name \
             a file with --validation"
                .into(),
        )),
        _ => Ok(()),
    }
}

/// Fails if a resumed run would read other data than before; nothing of the run has changed by
/// then.
pub(super) fn check_data(
    args: &TrainArgs,
    experiment: &Experiment,
    data: &TrainingData,
    state: Option<&SavedState>,
) -> Result<()> {
    if let Some(saved) = state {
        saved.state.check_workers(experiment.train.worker_count())?;
    }
    let Some(saved) = state.filter(|_| !args.accept_data_change) else {
        return Ok(());
    };
    match &saved.state.data {
        Some(before) => Ok(before.check(&Fingerprint::of(data, experiment.train.seed)?)?),
        None => {
            tracing::warn!(
                "the state is of an earlier version and does not say what its data were: they are not compared"
            );
            Ok(())
        }
    }
}
