//! The arguments of `mblm needle`.

use std::path::PathBuf;

use clap::Args;
use mblm::config::ByteSize;

use crate::options::{ComputeArgs, ModelArgs, SplitArg, byte_size};

/// Measure how well a model finds values hidden in text, by context length and depth
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm needle -m runs/needle_1700000000
  mblm needle -m MODEL --data book.txt --lengths 1KiB,16KiB,1MiB --depths 0,50,100 --samples 50
  mblm needle -m RUN --option needles=1 --option queries=1 --plot found.svg --json

Each sample is text in which needles such as [key qxv: 4821] are hidden; a query such as [key qxv? 4821] ends it. The
model reads the sample up to the query's value and then writes the value, at each byte the likeliest one. --depths places
the needle of the last query. --option sets the options of data set needle (io.dataset_args), which default to the options
of the run's training.")]
pub(crate) struct NeedleArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Configuration with the data set's options and text [default: the run's config.yaml if
    /// MODEL is the folder of a run]
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// File or folder with the text to hide needles in [default: the configuration's
    /// io.dataset_dir]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// Split of the text to use [default: all of --data, or validation without --data]
    #[arg(long, value_enum)]
    pub(crate) split: Option<SplitArg>,

    /// Lengths of the samples, such as 1KiB,4KiB,1MiB [default: powers of two from 256 bytes up to
    /// the model's context]
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = byte_size)]
    pub(crate) lengths: Vec<ByteSize>,

    /// Depths: percent of the text before the needle. The position varies by up to 15 bytes, so
    /// that all positions within a patch are measured
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "0,25,50,75,100", value_parser = percent)]
    pub(crate) depths: Vec<f64>,

    /// Number of samples for each length and depth [default: 20, fewer where they would take over
    /// two minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) samples: Option<u64>,

    /// Seed of the texts, keys and values
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Set an option of data set needle, such as needles=4; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,

    /// Draw the share of values found as a heat map to this file, .svg or .png
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Replace the file of --plot if it exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Number of samples to read at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) batch_size: u64,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected percent, 0 to 100, such as 50".into()),
    }
}
