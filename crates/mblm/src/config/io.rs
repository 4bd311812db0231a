//! Data and outputs: the map `io` of a configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tree::Problem;

/// Data and outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IoConfig {
    /// First part of the name of the run's folder.
    pub name_model: String,
    /// Folder that holds the runs' folders.
    pub output_dir: PathBuf,
    /// File or folder of the data set.
    pub dataset_dir: PathBuf,
    /// Name of the data set's kind: `bytes`, `pg19`, `pg19masked` or a registered one.
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

fn rank_zero() -> Vec<usize> {
    vec![0]
}

impl Default for IoConfig {
    /// The bytes of the files in the current folder, runs in `runs`, ten validations, a hundred
    /// training losses.
    fn default() -> Self {
        Self {
            name_model: "model".into(),
            output_dir: "runs".into(),
            dataset_dir: ".".into(),
            dataset_id: "bytes".into(),
            dataset_args: None,
            num_models_to_save: 1,
            validate_amount: 10,
            log_train_loss_amount: 100,
            enabled_loss_log_for_gpus: rank_zero(),
            description: None,
        }
    }
}

impl IoConfig {
    /// Makes data and outputs for the bytes of a file or folder, with defaults for all other
    /// values.
    pub fn new(dataset_dir: impl Into<PathBuf>) -> Self {
        Self {
            dataset_dir: dataset_dir.into(),
            ..Self::default()
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Names the first value that cannot be used.
    pub fn check(&self) -> Result<(), Problem> {
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
