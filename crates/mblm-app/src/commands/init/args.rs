//! The arguments of `mblm init`.

use std::path::PathBuf;

use clap::Args;

/// Write a commented configuration that fits your data and machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm init --data book.txt
  mblm init --data corpus/ --gpu -o corpus.yaml

The size of the data determines the model, its context and the length of the run. A comment explains every key.")]
pub(crate) struct InitArgs {
    /// File or folder to train on
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// Choose a model for a GPU
    #[arg(long)]
    pub(crate) gpu: bool,

    /// The configuration file to write
    #[arg(short, long, value_name = "FILE", default_value = "mblm.yaml")]
    pub(crate) output: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}
