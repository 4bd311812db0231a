//! The arguments of `mblm score`.

use std::path::PathBuf;

use clap::Args;

use crate::options::{ComputeArgs, ModelArgs};

/// Show the surprisal of each byte of a file or stream
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm score -m MODEL book.txt
  mblm score -m MODEL --jsonl access.log > surprisal.jsonl
  mblm score -m MODEL --by-position book.txt
  tail -f access.log | mblm score -m MODEL --jsonl

Every byte is predicted from all bytes before it, without a limit. mblm eval predicts within windows of the model's context.")]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// File to score; `-` reads stdin
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,

    /// Print one line of JSON for each byte: offset, byte, bits. The summary goes to stderr
    #[arg(long)]
    pub(crate) jsonl: bool,

    /// Print the mean surprisal by position: the first byte, the second, the next 2, 4, 8 and so
    /// on. It shows whether longer context helps
    #[arg(long)]
    pub(crate) by_position: bool,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the summary as JSON on stdout
    #[arg(long, conflicts_with = "jsonl")]
    pub(crate) json: bool,
}
