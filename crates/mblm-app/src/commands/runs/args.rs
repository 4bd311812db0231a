//! The arguments of `mblm runs`.

use std::path::PathBuf;

use clap::Args;

use crate::options::model_path;

/// List the runs of a folder with their progress and best loss
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  mblm runs
  mblm runs experiments --json
  mblm runs compare runs/tiny_1700000000 runs/tiny_1700000600

Runs are sorted by age, the newest last. \"best\" is the lowest loss on held-out data so far, in bits per byte.")]
pub(crate) struct RunsArgs {
    /// Folder to search for runs, at any depth
    #[arg(default_value = "runs", value_name = "DIR")]
    pub(crate) folder: PathBuf,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show which keys and losses of two runs differ
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm runs compare runs/tiny_1700000000 runs/tiny_1700000600")]
pub(crate) struct CompareArgs {
    /// Folder of the first run
    #[arg(value_name = "A", value_parser = model_path)]
    pub(crate) first: PathBuf,

    /// Folder of the second run
    #[arg(value_name = "B", value_parser = model_path)]
    pub(crate) second: PathBuf,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
