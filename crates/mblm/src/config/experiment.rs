//! An experiment: the YAML file that says what is trained, on what, how, and where the results go.
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

use bytesize::ByteSize;
use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::model::Architecture;
use super::tree::{Node, Problem};
use super::yaml;
use crate::{Error, Result};

/// A whole configuration file, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Experiment {
    /// Data and outputs.
    pub io: IoConfig,
    /// The model and the length of its inputs.
    pub params: Params,
    /// How it is trained.
    pub train: TrainConfig,
    /// Where it starts from, if not from fresh weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeConfig>,
    /// What a finished run adds to its output configuration; not read by training.
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

/// Data and outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoConfig {
    /// First part of the name of the run's folder.
    pub name_model: String,
    /// Folder that holds the runs' folders.
    pub output_dir: PathBuf,
    /// File or folder of the data set.
    pub dataset_dir: PathBuf,
    /// Name of the data set's kind: `bytes`, `pg19`, `pg19masked`, `clevr`, `pictures`, `needle` or a registered one.
    pub dataset_id: String,
    /// Options of the data set.
    #[serde(default)]
    pub dataset_args: Option<serde_json::Map<String, serde_json::Value>>,
    /// Best models kept, by validation loss.
    pub num_models_to_save: usize,
    /// How many times in total the model is validated, spread evenly.
    pub validate_amount: usize,
    /// How many times in total the training loss is logged, spread evenly.
    pub log_train_loss_amount: usize,
    /// Ranks that write `loss.csv`.
    #[serde(default = "rank_zero")]
    pub enabled_loss_log_for_gpus: Vec<usize>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
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

/// What counts as one element of `target_elements`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementCount {
    /// A sample.
    Batch,
    /// A byte.
    Sequence,
}

/// The type of matrix products and of the activations between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `Bf16` on GPUs, `Float32` elsewhere.
    #[default]
    Auto,
    /// 32-bit floats everywhere.
    Float32,
    /// bfloat16 matrix products; weights, norms, softmax, scan states and accumulators stay 32-bit.
    Bf16,
}

impl Precision {
    /// Whether matrix products on this device are bfloat16.
    pub fn is_bf16(self, device: &Device) -> bool {
        match self {
            Self::Auto => !device.is_cpu(),
            Self::Float32 => false,
            Self::Bf16 => true,
        }
    }
}

/// The rule that turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam, betas 0.9 and 0.95, without weight decay.
    #[default]
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Lower bound of elements trained on, over all workers.
    pub target_elements: u64,
    /// What counts as an element.
    pub target_elements_strategy: ElementCount,
    /// Share of the gradient steps, in [0, 1], in which the learning rate rises.
    #[serde(default = "default_warmup")]
    pub warmup_steps_perc: f64,
    /// Samples per batch and worker.
    pub batch_size: usize,
    /// Whether the training samples are shuffled.
    #[serde(default)]
    pub shuffle_train: bool,
    /// Whether the validation samples are shuffled.
    #[serde(default)]
    pub shuffle_eval: bool,
    /// Most batches of one validation; `None` means all.
    #[serde(default)]
    pub max_eval_steps: Option<usize>,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Largest L2 norm of all gradients together; `None` means no clipping.
    #[serde(default)]
    pub gradient_clipping: Option<f64>,
    /// Batches per gradient step.
    pub gradient_accumulate_every: usize,
    /// Probability in [0, 1] that a byte is masked out; encoders need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking_proba: Option<f64>,
    /// Seed of initial weights, shuffling, dropout and masking.
    #[serde(default)]
    pub seed: u64,
    /// The type of matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Decoupled weight decay of `adamw`.
    #[serde(default)]
    pub weight_decay: f64,
    /// Batches between full training states, from which a killed run goes on; `None` means at least every ten minutes. A state
    /// is saved after every validation in any case.
    #[serde(default)]
    pub save_state_every: Option<usize>,
    /// The most memory that a training step may take, such as `40GiB`: chunks of the first stage and groups of the others are chosen
    /// so that it fits. `None` means what a GPU has free; on the CPU that the first stage of a sample takes at most 512 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Training states kept, the newest.
    #[serde(default = "two")]
    pub keep_states: usize,
}

/// Where a run starts from, if not from fresh weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

fn rank_zero() -> Vec<usize> {
    vec![0]
}

fn two() -> usize {
    2
}

fn default_warmup() -> f64 {
    0.1
}

impl Experiment {
    /// Reads a configuration file, applies the overrides (`train.learning_rate=3e-4`, `params.seq_lens.0=64`) in order,
    /// and checks the result.
    ///
    /// # Errors
    /// A file that cannot be read, that is not YAML, or whose values cannot be used; names the line and the key.
    pub fn from_file(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        let path = path.as_ref();
        Self::from_yaml_str(&yaml::read_text(path)?, &path.display().to_string(), overrides)
    }

    /// Reads a configuration from YAML text; `source_name` stands for the file in error messages.
    ///
    /// # Errors
    /// As [`Experiment::from_file`].
    pub fn from_yaml_str(text: &str, source_name: &str, overrides: &[String]) -> Result<Self> {
        let root = yaml::parse(text, source_name, overrides)?;
        let experiment = Self::from_node(&root).map_err(|problem| problem.into_error(source_name))?;
        experiment.check().map_err(|problem| root.error(problem, source_name))?;
        Ok(experiment)
    }

    /// The configuration as YAML; reading it back gives the same configuration.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_yaml_string(&self) -> Result<String> {
        yaml::write(self)
    }

    /// Checks that the experiment can be run. What is read from YAML has been checked.
    ///
    /// # Errors
    /// Names the key, what was expected, what was found and what to try.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|problem| Error::config(problem.to_string()))
    }

    fn from_node(root: &Node) -> Result<Self, Problem> {
        let PlainMaps {
            io,
            train,
            resume,
            summary,
        } = root.without(&["params"]).read(&["params"])?;
        let params = Params::from_node(root.require("params")?).map_err(|problem| problem.within("params"))?;
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
        let every = self.train.gradient_accumulate_every;
        if batches < every as u64 {
            let message = format!(
                "expected at most {batches}, the batches in target_elements, found {every}: no gradient step would be \
                 taken; lower it or raise target_elements"
            );
            return Err(Problem::new("gradient_accumulate_every", message));
        }
        Ok(())
    }

    /// Elements of one worker's batch, as `target_elements` counts them: samples or bytes. Saturates.
    pub fn elements_per_batch(&self) -> u64 {
        let samples = self.train.batch_size as u64;
        match self.train.target_elements_strategy {
            ElementCount::Batch => samples,
            ElementCount::Sequence => samples.saturating_mul(self.params.input_seq_len as u64),
        }
    }
}

impl Params {
    fn from_node(node: &Node) -> Result<Self, Problem> {
        let architecture = Architecture::from_node(&node.without(&["input_seq_len"]), &["input_seq_len"])?;
        Ok(Self {
            input_seq_len: node.read_key("input_seq_len")?,
            architecture,
        })
    }

    fn check(&self) -> Result<(), Problem> {
        self.architecture.check()?;
        if self.input_seq_len == 0 {
            return Err(Problem::new(
                "input_seq_len",
                "expected at least 1 byte per sample, found 0",
            ));
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

impl IoConfig {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let empty = |key, what| Err(Problem::new(key, format!("expected {what}, found an empty text")));
        if self.name_model.is_empty() {
            return empty("name_model", "a name for the run's folder");
        }
        if self.output_dir.as_os_str().is_empty() {
            return empty("output_dir", "a folder; \".\" is the current one");
        }
        if self.dataset_dir.as_os_str().is_empty() {
            return empty("dataset_dir", "the data's file or folder");
        }
        if self.dataset_id.is_empty() {
            return empty("dataset_id", "the data's kind, as bytes or pg19");
        }
        Ok(())
    }
}

impl TrainConfig {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let positive = |key: &str, value: usize| match value {
            0 => Err(Problem::new(key, "expected at least 1, found 0")),
            _ => Ok(()),
        };
        positive("batch_size", self.batch_size)?;
        positive("gradient_accumulate_every", self.gradient_accumulate_every)?;
        if self.max_eval_steps == Some(0) {
            return Err(Problem::new(
                "max_eval_steps",
                "expected at least 1, or null for all batches, found 0",
            ));
        }
        positive("keep_states", self.keep_states)?;
        if self.save_state_every == Some(0) {
            return Err(Problem::new(
                "save_state_every",
                "expected at least 1, or null for the default, found 0",
            ));
        }
        finite(
            "learning_rate",
            self.learning_rate,
            "a finite number of at least 0",
            |rate| rate >= 0.0,
        )?;
        if let Some(norm) = self.gradient_clipping {
            finite(
                "gradient_clipping",
                norm,
                "a finite norm above 0, or null for no clipping",
                |norm| norm > 0.0,
            )?;
        }
        finite(
            "weight_decay",
            self.weight_decay,
            "a finite number of at least 0",
            |decay| decay >= 0.0,
        )?;
        if self.weight_decay > 0.0 && self.optimizer == OptimizerKind::Adam {
            let message = format!("expected 0 for adam, found {}; set optimizer: adamw", self.weight_decay);
            return Err(Problem::new("weight_decay", message));
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        finite(
            "warmup_steps_perc",
            self.warmup_steps_perc,
            "a share in [0, 1], not a percentage",
            share,
        )?;
        self.masking_proba.map_or(Ok(()), |probability| {
            finite("masking_proba", probability, "a probability in [0, 1]", share)
        })
    }
}

fn finite(key: &str, value: f64, expected: &str, holds: impl Fn(f64) -> bool) -> Result<(), Problem> {
    match value.is_finite() && holds(value) {
        true => Ok(()),
        false => Err(Problem::new(key, format!("expected {expected}, found {value}"))),
    }
}
