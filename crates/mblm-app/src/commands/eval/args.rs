//! The arguments of `mblm eval`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use crate::options::{ComputeArgs, ModelArgs, SplitArg, at_least_one};

/// Measure how well a model predicts files or a data set, in bits per byte
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["files", "config", "data"]))]
#[command(after_help = "\
Examples:
  mblm eval -m MODEL book.txt
  mblm eval -m MODEL --context 1024 --stride 256 --json logs/*.txt
  mblm eval -m RUN --config RUN/config.yaml --split test --by-position
  mblm eval -m MODEL --surprisal color book.txt | less -R
  head -c 5000 book.txt | mblm eval -m MODEL --surprisal jsonl -

Files of any size are read without unpacking; `gzip -dc FILE | mblm eval -m MODEL -` unpacks one. --data unpacks gzip and zstd.
Results are on stdout. With --surprisal, stdout has the bytes alone and the table of results goes to stderr.")]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Files to score; `-` reads stdin
    #[arg(conflicts_with_all = ["config", "data"])]
    pub(crate) files: Vec<PathBuf>,

    /// Score the data set of this configuration, with its options, sample length and seed
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// Score this file or folder as a data set [default: the configuration's io.dataset_dir]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// The kind of data set: bytes, clevr, needle, pg19, pg19masked, pictures [default: the
    /// configuration's io.dataset_id, else bytes]
    #[arg(long, value_name = "KIND", conflicts_with = "files")]
    pub(crate) dataset: Option<String>,

    /// The split of the data set [default: validation]
    #[arg(long, value_enum, conflicts_with = "files")]
    pub(crate) split: Option<SplitArg>,

    /// Score only the first N samples of the split
    #[arg(long, value_name = "N", conflicts_with = "files", value_parser = at_least_one())]
    pub(crate) max_samples: Option<usize>,

    /// Length of windows and samples in bytes [default: the configuration's params.input_seq_len,
    /// else the model's context]
    #[arg(long, value_name = "BYTES", value_parser = at_least_one())]
    pub(crate) context: Option<usize>,

    /// Start a window every BYTES bytes of a file and count only the last BYTES bytes of each
    /// window, which have at least context - BYTES bytes before them. Smaller values are more exact
    /// and cost context / BYTES times as much [default: the context]
    #[arg(long, value_name = "BYTES", value_parser = at_least_one(), conflicts_with_all = ["config", "data"])]
    pub(crate) stride: Option<usize>,

    /// Show the mean by position in the context: at 0, 1, 2-3, 4-7, ..., or in N equal parts. It
    /// shows whether longer context helps
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, value_parser = at_least_one())]
    pub(crate) by_position: Option<Option<usize>>,

    /// Print every byte with its surprisal -log2 p, in bits, on stdout
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) surprisal: Option<SurprisalArg>,

    /// Number of windows or samples to score at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one())]
    pub(crate) batch_size: usize,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the result as JSON on stdout
    #[arg(long, conflicts_with = "surprisal")]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SurprisalArg {
    /// One line of JSON for each byte: offset, byte, bits, position in the context, file (or split)
    Jsonl,
    /// The text, each character on a background from likely (none) to surprising (red); other bytes
    /// as \x..
    Color,
}
