//! The arguments of `mblm score`.

use std::path::PathBuf;

use clap::Args;

use crate::options::{ComputeArgs, ModelArgs};

/// Say how surprising each byte of a file or stream is
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm score -m MODEL book.txt
  mblm score -m MODEL --jsonl access.log > surprisal.jsonl
  mblm score -m MODEL --by-position book.txt
  tail -f access.log | mblm score -m MODEL --jsonl

Every byte is predicted from all bytes before it, however many. mblm eval predicts from windows of the model's context.")]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// File to score; - reads stdin
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,

    /// Print a JSON object for each byte, one a line: offset, byte, bits; the summary goes to stderr
    #[arg(long)]
    pub(crate) jsonl: bool,

    /// Print a table by position: the first byte, the second, then 2, 4, 8 of them and so on; does longer context help?
    #[arg(long)]
    pub(crate) by_position: bool,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the summary as JSON on stdout
    #[arg(long, conflicts_with = "jsonl")]
    pub(crate) json: bool,
}
