//! From a configuration to the splits of its data set.

use std::sync::Arc;

use anyhow::Result;
use mblm::config::{Architecture, Experiment};
use mblm::data::{Dataset, DatasetArgs, Masking, Registry, Split};
use mblm::train::TrainingData;

use crate::args::Usage;
use crate::progress;

/// Opens the splits of the experiment's data set.
pub(crate) fn open_data(experiment: &Experiment, registry: &Registry, quiet: bool) -> Result<TrainingData> {
    let Some(train) = open_split(experiment, registry, Split::Train, quiet)? else {
        return Err(Usage(format!("data set {} has nothing to train on", experiment.io.dataset_id)).into());
    };
    // the first sample shows whether data and model fit, before anything is written
    let first = train.sample(0, 0)?;
    if let (Architecture::Encoder(_), None) = (&experiment.params.architecture, &first.labels) {
        return Err(Usage(format!(
            "an encoder learns from masked bytes, but data set {} masks none; set io.dataset_id to pg19masked",
            experiment.io.dataset_id
        ))
        .into());
    }
    Ok(TrainingData {
        train,
        validation: open_split(experiment, registry, Split::Validation, quiet)?,
        test: open_split(experiment, registry, Split::Test, quiet)?,
    })
}

/// Opens one split of the experiment's data set, with a bar where that takes time unless `quiet`; `None` if it has no such
/// split.
pub(crate) fn open_split(
    experiment: &Experiment,
    registry: &Registry,
    split: Split,
    quiet: bool,
) -> mblm::Result<Option<Arc<dyn Dataset>>> {
    let architecture = &experiment.params.architecture;
    let model = architecture.model();
    let masking = match (architecture, experiment.train.masking_proba) {
        (Architecture::Encoder(encoder), Some(masking_proba)) => Some(Masking {
            mask_token_id: encoder.mask_token_id,
            masking_proba,
        }),
        _ => None,
    };
    let args = DatasetArgs {
        pad_token_id: model.pad_token_id,
        num_tokens: model.num_tokens,
        seed: experiment.train.seed,
        options: experiment.io.dataset_args.clone().unwrap_or_default(),
        masking,
        on_opening: progress::opening_bar(quiet),
        ..DatasetArgs::new(&experiment.io.dataset_dir, split, experiment.params.input_seq_len)
    };
    registry.open(&experiment.io.dataset_id, &args)
}
