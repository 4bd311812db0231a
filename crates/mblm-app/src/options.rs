//! Options that several commands have: model, device, precision, split; and readers of numbers.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use mblm::config::Precision;
use mblm::data::Split;

/// The device to compute on.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
}

/// The device to use a model on, and how precisely.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// How matrix products are computed; on the CPU bf16 rounds the weights alone, which are then read faster
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: PrecisionArg,
}

/// The model to use.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Model folder, or a weights file with its config.json beside it
    #[arg(short, long, value_name = "PATH")]
    pub model: PathBuf,
}

/// A split of a data set.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SplitArg {
    /// What models learn from
    Train,
    /// What chooses the best model
    Validation,
    /// What the best model is measured on
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
    /// Rounded to bfloat16, summed in float32; everything else stays float32
    Bf16,
}

impl PrecisionArg {
    /// The name on the command line and in configurations.
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
        }
    }
}

/// Reads a whole number from 1 to `most`.
pub fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Reads a whole number from 1.
pub fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}
