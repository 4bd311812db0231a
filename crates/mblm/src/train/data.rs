//! Opens the splits of a configured data set, which a registry finds by name.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Architecture, Experiment};
use crate::data::{Dataset, DatasetArgs, LoaderOptions, Masking, OnOpening, Order, Position, Sample, Split};
use crate::task::TaskRegistry;
use crate::{Error, Result};

/// The data of a run.
#[derive(Clone)]
pub struct TrainingData {
    /// The training split, or the first worker's part of it.
    pub train: Arc<dyn Dataset>,
    /// The parts of the workers after the first.
    pub other_workers: Vec<Arc<dyn Dataset>>,
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
        let workers = experiment.train.worker_count();
        let part = |worker| {
            let args = DatasetArgs {
                worker,
                workers,
                ..dataset_args(experiment, Split::Train, on_opening.clone())
            };
            let found = registry.open(id, &args)?;
            found.ok_or_else(|| Error::config(format!("data set {id} has no training data")))
        };
        let train = part(0)?;
        let other_workers = (1..workers).map(part).collect::<Result<Vec<_>>>()?;
        // checks that data and model fit, before anything is written
        let first = train.sample(0, 0)?;
        if let (Architecture::Encoder(_), None) = (&experiment.params.architecture, &first.labels) {
            return Err(Error::config(format!(
                "an encoder learns from masked bytes, but data set {id} does not mask bytes; set io.dataset_id to \
                 pg19masked"
            )));
        }
        let options = LoaderOptions::training(experiment.train.batch_size, Order::Sequential, Position::default());
        options.check(&*train)?;
        other_workers.iter().try_for_each(|part| options.check(&**part))?;
        Ok(Self {
            train,
            other_workers,
            validation: open(Split::Validation)?,
            test: open(Split::Test)?,
        })
    }
}

impl TrainingData {
    /// The part of a worker, cut in each epoch to the length of the shortest part: all workers have
    /// the same batches of an epoch.
    pub(super) fn part(&self, worker: usize) -> Arc<dyn Dataset> {
        let parts: Vec<_> = std::iter::once(&self.train)
            .chain(&self.other_workers)
            .cloned()
            .collect();
        match parts.len() {
            1 => self.train.clone(),
            _ => Arc::new(Part { worker, parts }),
        }
    }
}

/// A worker's part, as long as the shortest.
struct Part {
    worker: usize,
    parts: Vec<Arc<dyn Dataset>>,
}

impl Part {
    fn own(&self) -> &dyn Dataset {
        &*self.parts[self.worker]
    }
}

impl Dataset for Part {
    fn len(&self, epoch: usize) -> usize {
        self.parts.iter().map(|part| part.len(epoch)).min().unwrap_or(0)
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        self.own().sample(index, epoch)
    }

    fn bytes(&self) -> u64 {
        self.own().bytes()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.own().files()
    }

    fn describe(&self) -> String {
        self.own().describe()
    }

    fn is_costly(&self) -> bool {
        self.own().is_costly()
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
