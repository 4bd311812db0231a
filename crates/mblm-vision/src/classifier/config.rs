//! The configuration of a CNN + LSTM baseline run: a YAML file with the maps `io`, `cnn_lstm` and
//! `train`, and its checks.
//!
//! `io` and `train` have the keys of every run; `cnn_lstm` replaces `params`.
//! `train.target_elements` counts questions.

use std::path::Path;

use serde::{Deserialize, Serialize};

use mblm::config::{Document, ElementCount, IoConfig, Problem, TrainConfig, to_yaml};
use mblm::{Error, Result};

/// The map that only baseline configurations have.
const KEY: &str = "cnn_lstm";

/// Channels per group of the group norm; every convolution has a multiple of them.
pub(crate) const GROUP: usize = 8;

/// The sizes of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CnnLstmConfig {
    /// Channels of each convolution, 3 × 3 with stride 2.
    pub channels: Vec<usize>,
    /// Width of a word's embedding.
    pub word_dims: usize,
    /// Width of the LSTM that reads the question.
    pub lstm_dims: usize,
    /// Width of the layer between CNN and LSTM and the answers.
    pub hidden_dims: usize,
}

/// The configuration of a baseline run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierExperiment {
    /// Data and outputs.
    pub io: IoConfig,
    /// The network.
    pub cnn_lstm: CnnLstmConfig,
    /// The training.
    pub train: TrainConfig,
}

impl ClassifierExperiment {
    /// Reads a configuration file, applies the overrides in order, and checks the result.
    ///
    /// # Errors
    /// A file that cannot be read, that is not YAML, or whose values cannot be used; names the line
    /// and the key.
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::checked(&Document::from_file(path, overrides)?)
    }

    /// Reads a configuration from YAML text; error messages name the file `source_name`.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_yaml_str(text: &str, source_name: &str, overrides: &[String]) -> Result<Self> {
        Self::checked(&Document::from_yaml_str(text, source_name, overrides)?)
    }

    fn checked(document: &Document) -> Result<Self> {
        let experiment: Self = document.read()?;
        experiment.check().map_err(|problem| document.error(problem))?;
        Ok(experiment)
    }

    /// Returns the configuration as YAML, which reads back as the same configuration.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_yaml_string(&self) -> Result<String> {
        to_yaml(self)
    }

    /// Checks a network read from a model folder.
    pub(crate) fn check_network(network: &CnnLstmConfig) -> Result<()> {
        network.check().map_err(|problem| Error::config(problem.to_string()))
    }

    fn check(&self) -> Result<(), Problem> {
        self.cnn_lstm.check().map_err(|problem| problem.within(KEY))?;
        self.io.check().map_err(|problem| problem.within("io"))?;
        self.train.check().map_err(|problem| problem.within("train"))?;
        let fail = |key: &str, expected: &str, found: &dyn std::fmt::Display| {
            Err(Problem::new(key, format!("expected {expected}, found {found}")))
        };
        let (io, train) = (&self.io, &self.train);
        if io.dataset_id != "clevr" {
            return fail(
                "io.dataset_id",
                "clevr: the network answers questions about images",
                &io.dataset_id,
            );
        }
        if train.grad_accum != 1 {
            let found = &train.grad_accum;
            return fail(
                "train.gradient_accumulate_every",
                "1: this network's batches fit",
                found,
            );
        }
        if train.target_elements_strategy != ElementCount::Batch {
            return fail(
                "train.target_elements_strategy",
                "batch: elements are questions",
                &"sequence",
            );
        }
        if train.target_elements < train.batch_size as u64 {
            let expected = format!("at least one batch, {} questions", train.batch_size);
            return fail("train.target_elements", &expected, &train.target_elements);
        }
        Ok(())
    }
}

impl CnnLstmConfig {
    /// The largest accepted width, so that products of widths do not overflow.
    const LARGEST: usize = 1 << 16;

    fn check(&self) -> Result<(), Problem> {
        let fits = |channels: &usize| *channels > 0 && *channels <= Self::LARGEST && channels.is_multiple_of(GROUP);
        if self.channels.is_empty() || !self.channels.iter().all(fits) || self.channels.len() > 16 {
            let expected = format!("1 to 16 multiples of {GROUP} up to {}", Self::LARGEST);
            return Err(Problem::new(
                "channels",
                format!("expected {expected}, found {:?}", self.channels),
            ));
        }
        for (key, value) in [
            ("word_dims", self.word_dims),
            ("lstm_dims", self.lstm_dims),
            ("hidden_dims", self.hidden_dims),
        ] {
            if !(1..=Self::LARGEST).contains(&value) {
                let message = format!("expected 1 to {}, found {value}", Self::LARGEST);
                return Err(Problem::new(key, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mblm::config::has_key;

    const YAML: &str = "
io: { name_model: c, output_dir: runs, dataset_dir: d, dataset_id: clevr, num_models_to_save: 1, validate_amount: 2, log_train_loss_amount: 2 }
cnn_lstm: { channels: [8, 16], word_dims: 4, lstm_dims: 6, hidden_dims: 5 }
train: { target_elements: 64, target_elements_strategy: batch, batch_size: 4, learning_rate: 1e-3, gradient_accumulate_every: 1 }
";

    fn message(set: &str) -> String {
        ClassifierExperiment::from_yaml_str(YAML, "c.yaml", &[set.to_string()])
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn it_is_read_written_and_told_from_other_runs() {
        let experiment = ClassifierExperiment::from_yaml_str(YAML, "c.yaml", &[]).unwrap();
        let again = ClassifierExperiment::from_yaml_str(&experiment.to_yaml_string().unwrap(), "again", &[]).unwrap();
        assert_eq!(experiment, again);
        assert!(has_key(YAML, "cnn_lstm"));
        assert!(!has_key("params: {}", "cnn_lstm"));
        assert!(!has_key("[", "cnn_lstm"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (set, part) in [
            (
                "cnn_lstm.channels=[8, 9]",
                "cnn_lstm.channels: expected 1 to 16 multiples of 8",
            ),
            ("cnn_lstm.lstm_dims=0", "cnn_lstm.lstm_dims: expected 1 to"),
            ("io.dataset_id=bytes", "io.dataset_id: expected clevr"),
            ("train.batch_size=0", "train.batch_size: expected at least 1"),
            (
                "train.target_elements=3",
                "expected at least one batch, 4 questions, found 3",
            ),
            (
                "train.learning_rate=-1",
                "train.learning_rate: expected a finite number",
            ),
            (
                "train.gradient_clipping=0",
                "train.gradient_clipping: expected a finite norm above 0",
            ),
            ("cnn_lstm.chanels=[8]", "did you mean"),
        ] {
            assert!(message(set).contains(part), "{set}: {}", message(set));
        }
    }
}
