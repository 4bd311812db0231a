//! Reading configurations, and checking in them what only the program can know: names, and what it can do.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use mblm::config::{ClassifierExperiment, Experiment, ModelConfig, Precision};
use mblm::data::{DatasetArgs, Registry, Split};
use mblm::model::{BlockRegistry, Model, without_kernels};

use crate::args::Usage;
use crate::commands::eval::vocabulary;

/// Reads a configuration file. One that cannot be read is wrong usage, as is one that cannot be used.
pub(crate) fn read(path: &Path, overrides: &[String]) -> Result<Experiment> {
    if ClassifierExperiment::is_in(path) {
        return Err(Usage(format!(
            "{}: expected the configuration of a model of bytes, with params; this is one of the CNN + LSTM baseline, which is for              `mblm train` from its beginning, `mblm data check` and, with a run of it, `mblm vqa eval`",
            path.display()
        ))
        .into());
    }
    usage(Experiment::from_file(path, overrides))
}

/// What was read from a configuration file, where one that cannot be read is wrong usage.
pub(crate) fn usage<T>(read: mblm::Result<T>) -> Result<T> {
    read.map_err(|error| match error {
        mblm::Error::File { .. } => Usage(error.to_string()).into(),
        other => other.into(),
    })
}

/// Checks that the experiment's data set and blocks exist, without opening or building any.
pub(crate) fn check_names(experiment: &Experiment, datasets: &Registry, blocks: &BlockRegistry) -> Result<()> {
    let name = experiment.io.dataset_id.as_str();
    if !datasets.names().any(|known| known == name) {
        // fails on the name before it looks at anything else
        datasets.open(name, &DatasetArgs::new("", Split::Train, 1))?;
    }
    Ok(blocks.check(experiment.params.architecture.model())?)
}

/// Fails if the configuration is not one that this model was trained with, on the data set of this name, which `what` needs.
pub(crate) fn check_trained(experiment: &Experiment, model: &Model, dataset: &str, what: &str) -> Result<()> {
    if experiment.io.dataset_id != dataset {
        return Err(Usage(format!(
            "the configuration's io.dataset_id is {}: expected {dataset}; {what} needs a model that was trained on it",
            experiment.io.dataset_id
        ))
        .into());
    }
    let (ours, theirs) = (
        vocabulary(&model.architecture()),
        vocabulary(&experiment.params.architecture),
    );
    if ours != theirs {
        return Err(Usage(format!(
            "the configuration has another vocabulary, {theirs}, than the model, {ours}; give the one that it was trained with"
        ))
        .into());
    }
    let longest = model.architecture().model().longest_input();
    match longest.filter(|longest| experiment.params.input_seq_len > *longest) {
        Some(longest) => Err(Usage(format!(
            "the configuration's input_seq_len is {}, but the model has fixed positions for {longest} ids",
            experiment.params.input_seq_len
        ))
        .into()),
        None => Ok(()),
    }
}

/// Says so where bfloat16 products are asked for and this processor is no faster with them.
pub(crate) fn warn_of_precision(precision: Precision, device: &Device) {
    if device.is_cpu() && precision == Precision::Bf16 && !mblm::bf16_is_fast() {
        tracing::warn!(
            "this processor is no faster with bfloat16 (AMD's with AVX-512-BF16 and Intel's with AMX are): training rounds as \
             asked, but is slower than with --precision float32"
        );
    }
}

/// Says so where the device computes parts of a model without kernels of its own.
pub(crate) fn warn_of_kernels(model: &ModelConfig, device: &Device) {
    for part in without_kernels(model, device) {
        tracing::warn!("{part}; computed by ordinary tensor operations, which are slower and need more memory");
    }
}
