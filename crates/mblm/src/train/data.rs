//! From a configuration to the splits of its data set, by the name that a registry knows it by.

use std::sync::Arc;

use crate::config::{Architecture, Experiment};
use crate::data::{Dataset, DatasetArgs, LoaderOptions, Masking, OnOpening, Order, Position, Split};
use crate::task::TaskRegistry;
use crate::{Error, Result};

/// The data of a run.
#[derive(Clone)]
pub struct TrainingData {
    /// What the model learns from.
    pub train: Arc<dyn Dataset>,
    /// What chooses the best models.
    pub validation: Option<Arc<dyn Dataset>>,
    /// What the best model is measured on at the end.
    pub test: Option<Arc<dyn Dataset>>,
}

impl TrainingData {
    /// Opens the splits of the experiment's data set; `on_opening` hears of its progress where that takes time.
    ///
    /// # Errors
    /// An unknown data set, one that has nothing to train on, not even a batch, or masks nothing for an encoder, and whatever it finds wrong.
    pub fn open(experiment: &Experiment, registry: &TaskRegistry, on_opening: Option<OnOpening>) -> Result<Self> {
        let id = &experiment.io.dataset_id;
        let open = |split| open_split(experiment, registry, split, on_opening.clone());
        let Some(train) = open(Split::Train)? else {
            return Err(Error::config(format!("data set {id} has nothing to train on")));
        };
        // the first sample shows whether data and model fit, before anything is written
        let first = train.sample(0, 0)?;
        if let (Architecture::Encoder(_), None) = (&experiment.params.architecture, &first.labels) {
            return Err(Error::config(format!(
                "an encoder learns from masked bytes, but data set {id} masks none; set io.dataset_id to pg19masked"
            )));
        }
        LoaderOptions::training(experiment.train.batch_size, Order::Sequential, Position::default()).check(&*train)?;
        Ok(Self {
            train,
            validation: open(Split::Validation)?,
            test: open(Split::Test)?,
        })
    }
}

/// Opens one split of the experiment's data set; `None` if it has no such split.
///
/// # Errors
/// As [`TrainingData::open`].
pub fn open_split(
    experiment: &Experiment,
    registry: &TaskRegistry,
    split: Split,
    on_opening: Option<OnOpening>,
) -> Result<Option<Arc<dyn Dataset>>> {
    let args = dataset_args(experiment, split, on_opening);
    registry.open(&experiment.io.dataset_id, &args)
}

/// What an experiment's data set is opened with.
pub fn dataset_args(experiment: &Experiment, split: Split, on_opening: Option<OnOpening>) -> DatasetArgs {
    let architecture = &experiment.params.architecture;
    let model = architecture.model();
    let masking = match (architecture, experiment.train.masking_proba) {
        (Architecture::Encoder(encoder), Some(masking_proba)) => Some(Masking {
            mask_token_id: encoder.mask_token_id,
            masking_proba,
        }),
        _ => None,
    };
    DatasetArgs {
        pad_token_id: model.pad_token_id,
        num_tokens: model.num_tokens,
        seed: experiment.train.seed,
        options: experiment.io.dataset_args.clone().unwrap_or_default(),
        masking,
        on_opening,
        ..DatasetArgs::new(&experiment.io.dataset_dir, split, experiment.params.input_seq_len)
    }
}
