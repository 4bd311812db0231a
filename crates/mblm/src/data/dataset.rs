//! What a data set is: numbered samples of ids, the same for the same (index, epoch) whenever they are asked for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::tree::Node;
use crate::{Error, Result};

/// One sample: `len` ids and what the loss needs beside them. Every vector has `len` elements; all samples of a data set
/// have the same length and the same fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// What the model reads, `(len)`.
    pub ids: Vec<u32>,
    /// The weight of each position in the loss, 0 ignores it; without weights every position counts 1. `(len)`
    pub loss_weights: Option<Vec<f32>>,
    /// Masked-byte training: the original ids, `(len)`.
    pub labels: Option<Vec<u32>>,
    /// Masked-byte training: the positions that were masked, where the loss is taken, `(len)`.
    pub masked: Option<Vec<bool>>,
}

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What chooses the best model.
    Validation,
    /// What the best model is measured on.
    Test,
}

impl Split {
    /// The name of the split, of its folder too: `train`, `validation`, `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One split of a data set, as one worker sees it.
pub trait Dataset: Send + Sync {
    /// Samples of epoch `epoch` for this worker.
    ///
    /// The number may differ between epochs: sequential data loses a sample when its offset has moved far enough.
    fn len(&self, epoch: usize) -> usize;

    /// Sample `index`, below [`len`](Self::len), of epoch `epoch`: the same whenever and wherever it is asked for.
    ///
    /// # Errors
    /// An index out of range, data that cannot be read, or ids that the model does not know.
    fn sample(&self, index: usize, epoch: usize) -> Result<Sample>;

    /// Bytes of the split, over all workers.
    fn bytes(&self) -> u64;

    /// One line for people: what it is, how large, which part of it this worker has.
    fn describe(&self) -> String;

    /// Whether a sample takes so long to prepare that threads should share the samples of a batch. What a
    /// sample is does not depend on it.
    fn is_costly(&self) -> bool {
        false
    }
}

/// Masked-byte training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// The id that takes a masked byte's place.
    pub mask_token_id: u32,
    /// The probability with which each byte is masked, 0 to 1.
    pub masking_proba: f64,
}

/// How far the opening of a data set is: reported while compressed files or JSON Lines are decoded.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The file being decoded.
    pub path: &'a Path,
    /// Bytes read so far, of all files, as they lie on disk.
    pub done: u64,
    /// Bytes to read in all.
    pub total: u64,
}

/// Called with the progress of an opening.
pub type OnOpening = Arc<dyn Fn(Opening<'_>) + Send + Sync>;

/// Everything that a constructor of data sets is told. Start from [`DatasetArgs::new`] and set what differs.
#[derive(Clone)]
pub struct DatasetArgs {
    /// File or folder (`io.dataset_dir`).
    pub dir: PathBuf,
    /// The split wanted.
    pub split: Split,
    /// Ids per sample (`params.input_seq_len`).
    pub sample_len: usize,
    /// This worker, below `workers`.
    pub worker: usize,
    /// Workers that share the split.
    pub workers: usize,
    /// The id that fills up short samples.
    pub pad_token_id: u32,
    /// The size of the vocabulary: all ids are below it.
    pub num_tokens: usize,
    /// The seed of whatever is random.
    pub seed: u64,
    /// The data set's own options (`io.dataset_args`).
    pub options: Map<String, Value>,
    /// Masked-byte training, for data sets that offer it.
    pub masking: Option<Masking>,
    /// Told of the progress when opening takes long.
    pub on_opening: Option<OnOpening>,
}

impl DatasetArgs {
    /// One worker, 256 ids and padding with 0, seed 0, no options.
    pub fn new(dir: impl Into<PathBuf>, split: Split, sample_len: usize) -> Self {
        Self {
            dir: dir.into(),
            split,
            sample_len,
            worker: 0,
            workers: 1,
            pad_token_id: 0,
            num_tokens: 256,
            seed: 0,
            options: Map::new(),
            masking: None,
            on_opening: None,
        }
    }

    /// Ids of a sample where nothing bounds them: more than any sample has, and no number that overflows.
    pub const UNBOUNDED: usize = u32::MAX as usize;

    /// The options as a type of the data set's own; give it `#[serde(default, deny_unknown_fields)]`.
    ///
    /// # Errors
    /// Unknown keys and values of another type, as serde words them.
    pub fn parse_options<T: DeserializeOwned>(&self) -> Result<T> {
        let options = Value::Object(self.options.clone());
        serde_json::from_value(options.clone()).or_else(|error| {
            // numbers in other spellings, as in the rest of a configuration
            let read = Node::from(options).read(&[]);
            read.map_err(|_| Error::config(format!("dataset_args: {error}")))
        })
    }

    /// Fails on what no data set can work with.
    pub(crate) fn check(&self) -> Result<()> {
        if self.sample_len == 0 {
            return Err(Error::config("input_seq_len is 0: a sample needs at least one byte"));
        }
        if self.worker >= self.workers {
            return Err(Error::input(format!(
                "worker {} of {}: workers are numbered from 0",
                self.worker, self.workers
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for DatasetArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetArgs")
            .field("dir", &self.dir)
            .field("split", &self.split)
            .field("sample_len", &self.sample_len)
            .field("worker", &(self.worker, self.workers))
            .field("pad_token_id", &self.pad_token_id)
            .field("num_tokens", &self.num_tokens)
            .field("seed", &self.seed)
            .field("options", &self.options)
            .field("masking", &self.masking)
            .finish_non_exhaustive()
    }
}
