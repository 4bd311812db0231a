//! The arguments of `mblm train`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use mblm::config::ByteSize;

use crate::options::{DeviceArgs, PrecisionArg, byte_size};

/// Train a model from a configuration file, or on your own file with a preset
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["config", "data", "resume"]))]
#[command(after_help = "\
Examples:
  mblm train configs/quickstart.yaml
  mblm train --data book.txt --preset small --out runs
  mblm train --data book.txt --minutes 10
  mblm train my.yaml --set train.learning_rate=3e-4 --set params.input_seq_len=512 --dry-run
  gzip -dc logs/*.gz | mblm train --data -
  mblm train --resume runs/quickstart_1700000000
  mblm train my.yaml --resume auto

The run's folder holds the configuration (config.yaml), the best models (models/), training states (states/) and logs.
The first Ctrl-C saves the training state after the current batch and ends the run; the second ends it at once. --resume
continues a run, however it ended, and gives the same result as a run without interruption.")]
pub struct TrainArgs {
    /// Configuration file (YAML)
    pub config: Option<PathBuf>,

    /// File or folder to train on, of any content, instead of a configuration; `-` saves a copy of
    /// stdin and trains on it
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub data: Option<PathBuf>,

    /// Continue a run: its folder, or one of its training states; `auto` takes the newest run of
    /// this name and starts a new run if there is none
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,

    /// Continue the run although its data have changed; the losses of the best models so far are
    /// forgotten
    #[arg(long, requires = "resume")]
    pub accept_data_change: bool,

    /// Size of the model that --data trains
    #[arg(
        long,
        value_enum,
        default_value = "tiny",
        requires = "data",
        conflicts_with = "config"
    )]
    pub preset: PresetArg,

    /// Change a value of the configuration, such as train.batch_size=8; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,

    /// Length of the run in minutes. The speed of a step is measured, and train.target_elements
    /// (and so the schedule) is set to fit
    #[arg(long, value_name = "MINUTES", value_parser = minutes, conflicts_with = "resume")]
    pub minutes: Option<f64>,

    /// Shorthand of --set train.learning_rate=LR
    #[arg(long, value_name = "LR")]
    pub lr: Option<String>,

    /// Shorthand of --set train.batch_size=N
    #[arg(long, value_name = "N")]
    pub batch_size: Option<String>,

    /// Equal parts of the data that are trained on side by side: shorthand of --set train.workers=N
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,

    /// Seconds that a process of several waits for another one before it ends with exit code 75
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,

    /// File or folder of held-out data: shorthand of --set io.dataset_args.validation=PATH
    #[arg(long, value_name = "PATH")]
    pub validation: Option<String>,

    /// Shorthand of --set io.name_model=NAME
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// What the length of a run is said by instead.
    #[arg(long, hide = true, value_parser = no_epochs)]
    pub epochs: Option<String>,

    /// What the length of a run is said by instead.
    #[arg(long, hide = true, value_parser = no_steps)]
    pub steps: Option<String>,

    /// Folder in which the run's folder is made [default: the configuration's io.output_dir, else
    /// runs]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Seed of the weights, shuffling and dropout [default: the configuration's train.seed]
    #[arg(long)]
    pub seed: Option<u64>,

    /// Precision of the matrix products of linear layers [default: the configuration's
    /// train.precision, else auto]
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionArg>,

    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// The most memory that a step may take, such as 40GiB; larger steps are computed in smaller
    /// chunks [default: the configuration's train.memory, else the free memory of the GPU]
    #[arg(long, value_name = "BYTES", value_parser = byte_size)]
    pub memory: Option<ByteSize>,

    /// Length, in bytes, of the sample that a finished run prints
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub sample_bytes: usize,

    /// Print parameters per stage, bytes per step and estimated memory, without training
    #[arg(long)]
    pub dry_run: bool,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

impl TrainArgs {
    /// The longest time that a collective of several processes may wait.
    pub(crate) fn timeout(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout)
    }

    /// All that changes values of the configuration: `--set`, and the shorthands of some keys.
    pub fn all_overrides(&self) -> Vec<String> {
        // a name is a text, whatever it looks like
        let text = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        let (name, validation) = (self.name.as_ref().map(text), self.validation.as_ref().map(text));
        let shorthands = [
            ("train.learning_rate", &self.lr),
            ("train.batch_size", &self.batch_size),
            ("train.workers", &self.workers),
            ("io.dataset_args.validation", &validation),
            ("io.name_model", &name),
        ];
        let shorthands: Vec<String> = shorthands
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)))
            .collect();
        self.overrides.iter().cloned().chain(shorthands).collect()
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 525_600.0 => Ok(minutes),
        _ => Err("expected minutes, more than 0 and at most 525600 (a year), such as 10 or 2.5".into()),
    }
}

fn no_epochs(_: &str) -> Result<String, String> {
    Err("set the length of a run in bytes: `--set train.target_elements=N`, where N is the epochs times the bytes of the data".into())
}

fn no_steps(_: &str) -> Result<String, String> {
    Err(
        "set the length of a run in bytes: `--set train.target_elements=N`, where N is the steps times the bytes of a step, \
         which --dry-run shows"
            .into(),
    )
}

/// The size of a ready-made model.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PresetArg {
    /// 1.2 M parameters, 512 bytes of context: minutes on a laptop
    Tiny,
    /// 5.5 M parameters, 2048 bytes of context: hours on a laptop
    Small,
    /// 33 M parameters, 8192 bytes of context: an hour on a GPU
    Medium,
}
