//! `mblm data …` as it is typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use mblm::data::Split;

use super::at_least_one;

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Read all of a data set and list everything that training would stumble over
    Check(CheckArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["config", "data"]))]
#[command(after_help = "\
Examples:
  mblm data check my.yaml
  mblm data check my.yaml --set io.dataset_args.resize_to_w=64 --split validation
  mblm data check --data CLEVR_v1.0 --json

Of clevr every question is read and every image decoded and prepared as the configuration says; missing, truncated and damaged
images, answers outside the map and samples longer than input_seq_len are listed with file and question. Of other data sets
the splits are opened and every sample is read. The exit code is 1 if anything is wrong.")]
pub(crate) struct CheckArgs {
    /// Configuration file (YAML) that names the data set
    pub(crate) config: Option<PathBuf>,

    /// Folder of the data set [default: the configuration's io.dataset_dir]; without a configuration it is one of clevr, whose
    /// samples may be of any length
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Change a value of the configuration, such as params.input_seq_len=4096; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) overrides: Vec<String>,

    /// The split to look at
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: CheckSplit,

    /// List the first N problems of a split; all are counted
    #[arg(long, value_name = "N", default_value = "20", value_parser = at_least_one())]
    pub(crate) limit: usize,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckSplit {
    /// What models learn from
    Train,
    /// What chooses the best model
    Validation,
    /// What the best model is measured on
    Test,
    /// All that there are
    All,
}

impl CheckSplit {
    /// The splits that are meant.
    pub(crate) fn splits(self) -> &'static [Split] {
        match self {
            Self::Train => &[Split::Train],
            Self::Validation => &[Split::Validation],
            Self::Test => &[Split::Test],
            Self::All => &[Split::Train, Split::Validation, Split::Test],
        }
    }
}
