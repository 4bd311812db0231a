//! The arguments of `mblm bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mblm::config::ByteSize;

use crate::options::{DeviceArgs, PrecisionArg, at_least_one, byte_size};

/// Measure how fast this machine trains and generates
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm bench
  mblm bench mamba2 --what train --seconds 30
  mblm bench --config my.yaml --batch-size 8 --json

Weights and bytes are random. Speeds are medians, with the smallest and the largest; a kB is 1000 bytes. The limit is the
speed of a plain matrix product as wide as the model, measured in turns with the training steps. A step's speed counts the
products of linear layers, forward and backward, without attention and scans. Peak memory is the whole program's: after
generation it includes the training that was measured before.")]
pub(crate) struct BenchArgs {
    /// The model to measure: of width 256, or 1024 for the three large models
    #[arg(value_enum, default_value = "transformer")]
    pub(crate) model: BenchModel,

    /// Measure the model of this configuration file (YAML) instead
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) config: Option<PathBuf>,

    /// Measure training, generation or both
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) what: BenchWhat,

    /// Number of samples of a training batch
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one())]
    pub(crate) batch_size: usize,

    /// Length, in bytes, of a training sample, and of prompt and continuation together [default:
    /// the model's context]
    #[arg(long, value_name = "BYTES", value_parser = at_least_two())]
    pub(crate) context: Option<usize>,

    /// Precision of the matrix products of linear layers; for generation on the CPU, bf16 rounds
    /// only the weights
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) precision: PrecisionArg,

    /// The most memory that a training step may take, such as 40GiB [default: the free memory of a
    /// GPU]
    #[arg(long, value_name = "BYTES", value_parser = byte_size)]
    pub(crate) memory: Option<ByteSize>,

    /// Shortest time in seconds to measure training and generation, each; at least three
    /// repetitions are done
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// A model that can be measured by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchModel {
    /// 5.5 M parameters, two Transformer stages of [256, 8]
    Transformer,
    /// The same with Mamba1 as the first stage, states of 16
    Mamba1,
    /// The same with Mamba2 as the first stage, states of 64
    Mamba2,
    /// One Transformer stage of 2048 bytes, 8 layers
    Flat,
    /// 359 M parameters, Mamba2 over a Transformer, stages of [1024, 8]: for a large GPU, with
    /// --batch-size 6
    #[value(name = "2d-359m")]
    TwoStages,
    /// 363 M parameters, Mamba2 over two Transformers, stages of [8192, 16, 8]: for a large GPU,
    /// with --batch-size 1
    #[value(name = "3d-363m")]
    ThreeStages,
    /// 361 M parameters, one Transformer stage of 8192 bytes: for a large GPU, with --batch-size 4
    #[value(name = "1d-361m")]
    OneStage,
}

impl BenchModel {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }
}

/// What `mblm bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchWhat {
    /// Training and generation
    All,
    /// Training steps
    Train,
    /// Prefill and decoding
    Generate,
}

fn at_least_two() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(2..)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, 0 to 86400, such as 10".into()),
    }
}
