//! Data sets: numbered samples of ids. A sample depends on (index, epoch) alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::tree::Node;
use crate::{Error, Result};

/// One sample: `len` ids and the other inputs of the loss. Every vector has `len` elements; all
/// samples of a data set have the same length and the same fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The input ids, `(len)`.
    pub ids: Vec<u32>,
    /// The weight of each position in the loss, `(len)`: 0 ignores it; `None` means 1 everywhere.
    pub loss_weights: Option<Vec<f32>>,
    /// Masked-byte training: the original ids, `(len)`.
    pub labels: Option<Vec<u32>>,
    /// Masked-byte training: the masked positions, where the loss is taken, `(len)`.
    pub masked: Option<Vec<bool>>,
}

/// A split of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The data that the model learns from.
    Train,
    /// The data that selects the best model.
    Validation,
    /// The data that the best model is measured on.
    Test,
}

impl Split {
    /// Returns the name of the split and of its folder: `train`, `validation` or `test`.
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
    /// Returns the number of samples of epoch `epoch` for this worker.
    ///
    /// The number may differ between epochs: a large enough offset costs sequential data a sample.
    fn len(&self, epoch: usize) -> usize;

    /// Returns sample `index`, below [`len`](Self::len), of epoch `epoch`; the same on every call
    /// and thread.
    ///
    /// # Errors
    /// An index out of range, data that cannot be read, or ids outside the vocabulary.
    fn sample(&self, index: usize, epoch: usize) -> Result<Sample>;

    /// Returns the number of bytes of the split, over all workers.
    fn bytes(&self) -> u64;

    /// Returns one line for people: the kind of data, its size, and this worker's part of it.
    fn describe(&self) -> String;

    /// Returns the files that the split is read from, in order; empty if the data is not in files.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Returns whether a sample is so slow to prepare that threads should share the samples of a
    /// batch. The samples themselves do not depend on it.
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

/// The progress of opening a data set, reported while compressed files or JSON Lines are decoded.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The file being decoded.
    pub path: &'a Path,
    /// Bytes of all files read so far, before decoding.
    pub done: u64,
    /// Bytes to read in all.
    pub total: u64,
}

/// Called with the progress of an opening.
pub type OnOpening = Arc<dyn Fn(Opening<'_>) + Send + Sync>;

/// The arguments of a data set's constructor. Start from [`DatasetArgs::new`] and set the rest.
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
    /// The id that pads short samples.
    pub pad_token_id: u32,
    /// The size of the vocabulary: all ids are below it.
    pub num_tokens: usize,
    /// The seed of all random choices.
    pub seed: u64,
    /// The data set's own options (`io.dataset_args`).
    pub options: Map<String, Value>,
    /// Masked-byte training, for data sets that offer it.
    pub masking: Option<Masking>,
    /// Receives the progress when opening takes long.
    pub on_opening: Option<OnOpening>,
}

impl DatasetArgs {
    /// Returns arguments for one worker, 256 ids, padding with 0, seed 0 and no options.
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

    /// The sample length where nothing bounds it: longer than any sample, too small to overflow.
    pub const UNBOUNDED: usize = u32::MAX as usize;

    /// Parses the options into the data set's own type, which should be
    /// `#[serde(default, deny_unknown_fields)]`.
    ///
    /// # Errors
    /// Unknown keys and values of a wrong type, in serde's words.
    pub fn parse_options<T: DeserializeOwned>(&self) -> Result<T> {
        let options = Value::Object(self.options.clone());
        serde_json::from_value(options.clone()).or_else(|error| {
            // accepts other spellings of numbers, like the rest of a configuration
            let read = Node::from(options).read(&[]);
            read.map_err(|_| Error::config(format!("dataset_args: {error}")))
        })
    }

    /// Fails on arguments that no data set can use.
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
