//! Opens the splits of a configured data set, which a registry finds by name.

use std::sync::Arc;

use crate::config::{Architecture, Experiment};
use crate::data::{Dataset, DatasetArgs, LoaderOptions, Masking, OnOpening, Order, Position, Split};
use crate::task::TaskRegistry;
use crate::{Error, Result};

/// The data of a run.
#[derive(Clone)]
pub struct TrainingData {
    /// The training split.
    pub train: Arc<dyn Dataset>,
    /// The split that selects the best models.
    pub validation: Option<Arc<dyn Dataset>>,
    /// The split that measures the best model at the end.
    pub test: Option<Arc<dyn Dataset>>,
}

impl TrainingData {
    /// Opens the splits of the experiment's data set, reporting slow progress to `on_opening`.
    ///
    /// # Errors
    /// An unknown data set, one without a training batch, one that masks nothing for an encoder,
    /// and the data set's own errors.
    pub fn open(experiment: &Experiment, registry: &TaskRegistry, on_opening: Option<OnOpening>) -> Result<Self> {
        let id = &experiment.io.dataset_id;
        let open = |split| open_split(experiment, registry, split, on_opening.clone());
        let Some(train) = open(Split::Train)? else {
            return Err(Error::config(format!("data set {id} has no training data")));
        };
        // checks that data and model fit, before anything is written
        let first = train.sample(0, 0)?;
        if let (Architecture::Encoder(_), None) = (&experiment.params.architecture, &first.labels) {
            return Err(Error::config(format!(
                "an encoder learns from masked bytes, but data set {id} does not mask bytes; set io.dataset_id to \
                 pg19masked"
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
/// Those of [`TrainingData::open`].
pub fn open_split(
    experiment: &Experiment,
    registry: &TaskRegistry,
    split: Split,
    on_opening: Option<OnOpening>,
) -> Result<Option<Arc<dyn Dataset>>> {
    let args = dataset_args(experiment, split, on_opening);
    registry.open(&experiment.io.dataset_id, &args)
}

/// The arguments that open an experiment's data set.
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
