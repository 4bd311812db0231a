//! An experiment: the YAML file that describes the model, the data, the training and the outputs.
//!
//! ```yaml
//! io: {name_model: prose, output_dir: runs, dataset_dir: prose.txt, dataset_id: bytes, num_models_to_save: 1,
//!      validate_amount: 10, log_train_loss_amount: 100}
//! params: {input_seq_len: 2048, num_tokens: 257, pad_token_id: 256, seq_lens: [256, 8], hidden_dims: [256, 256],
//!          num_layers: [4, 4], block: {attn_head_dims: 64, attn_num_heads: 4, attn_use_rot_embs: true}}
//! train: {target_elements: 7_000_000, target_elements_strategy: sequence, batch_size: 8, learning_rate: 1e-3,
//!         gradient_accumulate_every: 1}
//! ```

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::io::IoConfig;
use super::model::Architecture;
use super::train::{ElementCount, TrainConfig};
use super::tree::{Node, Problem};
use super::yaml;
use crate::blocks::BlockRegistry;
use crate::{Error, Result};

/// A whole configuration file, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Experiment {
    /// Data and outputs.
    pub io: IoConfig,
    /// The model and the length of its inputs.
    pub params: Params,
    /// The training.
    pub train: TrainConfig,
    /// The start of the run, if not from fresh weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeConfig>,
    /// What a finished run adds to its output configuration. Training does not read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// The maps of a file that are read as they are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMaps {
    io: IoConfig,
    train: TrainConfig,
    #[serde(default)]
    resume: Option<ResumeConfig>,
    #[serde(default)]
    summary: Option<Summary>,
}

/// The model and the length of its inputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Params {
    /// Bytes per sample.
    pub input_seq_len: usize,
    /// The model; its keys stand beside `input_seq_len`.
    #[serde(flatten)]
    pub architecture: Architecture,
}

/// Where a run starts from, if not from fresh weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeConfig {
    /// The weights.
    pub checkpoint_file: PathBuf,
    /// Epoch to go on with.
    pub next_epoch_index: usize,
    /// Batch of that epoch to go on with.
    pub next_batch_index: usize,
    /// Whether the weights' smaller vocabulary becomes the first rows of a larger one.
    #[serde(default)]
    pub migrate_embeddings: bool,
    /// Whether the weights' names of earlier package versions are translated.
    #[serde(default)]
    pub rename_modules: bool,
    /// Configuration of the run that wrote the weights.
    #[serde(default)]
    pub resumed_from: Option<String>,
}

/// What a finished run adds to its output configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// When training began.
    pub training_start: String,
    /// When training ended.
    pub training_end: String,
    /// Number of workers.
    pub num_workers: usize,
    /// Their devices.
    #[serde(alias = "cuda_devices")]
    pub devices: Vec<String>,
    /// Parameters of the model.
    pub parameter_count: u64,
    /// Why the run failed, if it did.
    pub error: Option<String>,
}

impl Experiment {
    /// Makes an experiment that trains a model on the bytes of a file or folder, with samples as
    /// long as the model's context and defaults for all other values.
    pub fn new(architecture: impl Into<Architecture>, dataset_dir: impl Into<PathBuf>) -> Self {
        Self {
            io: IoConfig::new(dataset_dir),
            params: Params::new(architecture),
            train: TrainConfig::default(),
            resume: None,
            summary: None,
        }
    }

    /// Replaces data and outputs.
    pub fn with_io(self, io: IoConfig) -> Self {
        Self { io, ..self }
    }

    /// Replaces the training.
    pub fn with_train(self, train: TrainConfig) -> Self {
        Self { train, ..self }
    }

    /// Reads a configuration file, applies the overrides (`train.learning_rate=3e-4`,
    /// `params.seq_lens.0=64`) in order, and checks the result.
    ///
    /// # Errors
    /// A file that cannot be read, that is not YAML, or whose values cannot be used. The error
    /// names the line and the key.
    pub fn from_file(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        Self::from_file_with(path, overrides, &BlockRegistry::default())
    }

    /// Like [`from_file`](Self::from_file), with custom blocks.
    ///
    /// # Errors
    /// As [`Experiment::from_file`].
    pub fn from_file_with(path: impl AsRef<Path>, overrides: &[String], registry: &BlockRegistry) -> Result<Self> {
        let path = path.as_ref();
        Self::from_yaml_str_with(
            &yaml::read_text(path)?,
            &path.display().to_string(),
            overrides,
            registry,
        )
    }

    /// Reads a configuration from YAML text; error messages call it `source_name`.
    ///
    /// # Errors
    /// As [`Experiment::from_file`].
    pub fn from_yaml_str(text: &str, source_name: &str, overrides: &[String]) -> Result<Self> {
        Self::from_yaml_str_with(text, source_name, overrides, &BlockRegistry::default())
    }

    /// Like [`from_yaml_str`](Self::from_yaml_str), with custom blocks.
    ///
    /// # Errors
    /// As [`Experiment::from_file`].
    pub fn from_yaml_str_with(
        text: &str,
        source_name: &str,
        overrides: &[String],
        registry: &BlockRegistry,
    ) -> Result<Self> {
        let root = yaml::parse(text, source_name, overrides)?;
        let experiment = Self::from_node(&root, registry).map_err(|problem| problem.into_error(source_name))?;
        experiment.check().map_err(|problem| root.error(problem, source_name))?;
        Ok(experiment)
    }

    /// Returns the configuration as YAML. Reading the YAML gives the same configuration.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_yaml_string(&self) -> Result<String> {
        yaml::write(self)
    }

    /// Checks that the experiment can be run. An experiment read from YAML is already checked.
    ///
    /// # Errors
    /// Names the key, what was expected, what was found and what to try.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|problem| Error::config(problem.to_string()))
    }

    fn from_node(root: &Node, registry: &BlockRegistry) -> Result<Self, Problem> {
        let PlainMaps {
            io,
            train,
            resume,
            summary,
        } = root.without(&["params"]).read(&["params"])?;
        let params =
            Params::from_node(root.require("params")?, registry).map_err(|problem| problem.within("params"))?;
        Ok(Self {
            io,
            params,
            train,
            resume,
            summary,
        })
    }

    fn check(&self) -> Result<(), Problem> {
        self.io.check().map_err(|problem| problem.within("io"))?;
        self.params.check().map_err(|problem| problem.within("params"))?;
        self.train
            .check()
            .and_then(|()| self.check_amounts())
            .map_err(|problem| problem.within("train"))?;
        match (&self.params.architecture, self.train.masking_proba) {
            (Architecture::Encoder(_), None) => {
                let message = "missing, but an encoder is trained on masked bytes; try masking_proba: 0.15";
                Err(Problem::new("train.masking_proba", message))
            }
            _ => Ok(()),
        }
    }

    /// Checks that `target_elements` is enough for one batch and one gradient step.
    fn check_amounts(&self) -> Result<(), Problem> {
        let batch = self.elements_per_batch();
        let target = self.train.target_elements;
        if target < batch {
            let message = format!(
                "expected at least one batch, {batch} elements, found {target}; raise it or lower batch_size{}",
                match self.train.target_elements_strategy {
                    ElementCount::Batch => "",
                    ElementCount::Sequence => " or params.input_seq_len",
                }
            );
            return Err(Problem::new("target_elements", message));
        }
        let batches = target.div_ceil(batch);
        let every = self.train.grad_accum;
        if batches < every as u64 {
            let message = format!(
                "expected at most {batches}, the batches in target_elements, found {every}: no gradient step would be \
                 taken; lower it or raise target_elements"
            );
            return Err(Problem::new("gradient_accumulate_every", message));
        }
        Ok(())
    }

    /// Returns the elements (samples or bytes) of one worker's batch, as `target_elements` counts
    /// them. Saturates.
    pub fn elements_per_batch(&self) -> u64 {
        let samples = self.train.batch_size as u64;
        match self.train.target_elements_strategy {
            ElementCount::Batch => samples,
            ElementCount::Sequence => samples.saturating_mul(self.params.input_seq_len as u64),
        }
    }
}

impl Params {
    /// Makes a model with samples as long as its context.
    pub fn new(architecture: impl Into<Architecture>) -> Self {
        let architecture = architecture.into();
        Self {
            input_seq_len: architecture.model().context(),
            architecture,
        }
    }

    fn from_node(node: &Node, registry: &BlockRegistry) -> Result<Self, Problem> {
        let known = ["input_seq_len"];
        let architecture = Architecture::from_node(&node.without(&known), &known, registry)?;
        Ok(Self {
            input_seq_len: node.read_key("input_seq_len")?,
            architecture,
        })
    }

    fn check(&self) -> Result<(), Problem> {
        self.architecture.check()?;
        let expected = match (&self.architecture, self.input_seq_len) {
            (Architecture::Encoder(_), 0) => Some("1 byte per sample"),
            (Architecture::Decoder(_), 0 | 1) => Some("2 bytes per sample, each predicted from those before it"),
            _ => None,
        };
        if let Some(expected) = expected {
            let message = format!("expected at least {expected}, found {}", self.input_seq_len);
            return Err(Problem::new("input_seq_len", message));
        }
        match self.architecture.model().longest_input() {
            Some(longest) if self.input_seq_len > longest => {
                let lengths: Vec<String> = self
                    .architecture
                    .model()
                    .seq_lens
                    .iter()
                    .map(usize::to_string)
                    .collect();
                let message = format!(
                    "expected at most {} = {longest} bytes, as the first stage's fixed position table has one row per \
                     patch, found {}; lower it, raise seq_lens, or set the first block's pos_emb_type to rope or null",
                    lengths.join(" · "),
                    self.input_seq_len
                );
                Err(Problem::new("input_seq_len", message))
            }
            _ => Ok(()),
        }
    }
}
