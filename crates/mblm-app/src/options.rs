//! Options that several commands share: model, device, precision, split; and parsers of numbers.

use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use mblm::checkpoint::{CONFIG_FILE, RUN_CONFIG, WEIGHTS_FILE};
use mblm::config::{ByteSize, Precision};
use mblm::data::Split;

/// The device to compute on.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Device to compute on: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
}

/// The device and precision with which a model is used.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// Precision of matrix products; on the CPU, bf16 rounds only the weights, which makes reading
    /// them faster
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: PrecisionArg,
}

/// The model to use.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Model folder, or a weights file with its config.json beside it. A folder of runs stands for
    /// its newest run, `latest` for the newest run in `runs`. -m may be left out if the model is
    /// the first argument
    #[arg(short, long, value_name = "PATH", value_parser = model_path)]
    pub model: PathBuf,
}

/// A split of a data set.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SplitArg {
    /// The training split
    Train,
    /// The validation split, which selects the best model
    Validation,
    /// The test split, on which the best model is measured
    Test,
}

impl From<SplitArg> for Split {
    fn from(split: SplitArg) -> Self {
        match split {
            SplitArg::Train => Self::Train,
            SplitArg::Validation => Self::Validation,
            SplitArg::Test => Self::Test,
        }
    }
}

/// How matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// bf16 on GPUs, float32 on the CPU
    Auto,
    /// 32-bit floats everywhere
    Float32,
    /// Products of factors rounded to bfloat16, summed in float32; everything else in float32
    Bf16,
    /// bf16 if this machine is faster with it, else float32
    Fastest,
}

impl PrecisionArg {
    /// Returns the name on the command line and in configurations.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Auto => Self::Auto,
            PrecisionArg::Float32 => Self::Float32,
            PrecisionArg::Bf16 => Self::Bf16,
            PrecisionArg::Fastest => Self::Fastest,
        }
    }
}

/// Reads a number of bytes, such as 40GiB.
///
/// # Errors
/// The text is not a number of bytes.
pub fn byte_size(text: &str) -> Result<ByteSize, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("expected a number of bytes, such as 8GiB, 500MB or 4096, found `{text}`"))
}

/// Returns the model's folder: the path itself, the newest run in a folder of runs, or for
/// `latest` the newest run in `runs`.
///
/// # Errors
/// `latest` without a run in `runs`.
pub fn model_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text == "latest" && !path.exists() {
        return newest_run(Path::new("runs"))
            .ok_or_else(|| "latest: expected runs in the folder `runs`, found none".into());
    }
    let is_model = [RUN_CONFIG, CONFIG_FILE, WEIGHTS_FILE]
        .iter()
        .any(|name| path.join(name).exists());
    if path.is_dir() && !is_model {
        return Ok(newest_run(&path).unwrap_or(path));
    }
    Ok(path)
}

/// Returns the run in a folder of runs whose configuration was written last.
fn newest_run(folder: &Path) -> Option<PathBuf> {
    let runs = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let written = entry.path().join(RUN_CONFIG).metadata().ok()?.modified().ok()?;
        Some((written, entry.path()))
    });
    runs.max().map(|(_, run)| run)
}

/// Reads a whole number from 1 to `most`.
pub fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Reads a whole number from 1.
pub fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}
