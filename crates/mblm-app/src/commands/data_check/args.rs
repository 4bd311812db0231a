//! The arguments of `mblm data check`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Command, ValueEnum};
use mblm::data::Split;

use crate::command::{Context, TaskCommands};
use crate::options::at_least_one;

/// Examples of any data set.
const EXAMPLES: &str = "\
Examples:
  mblm data check my.yaml
  mblm data check my.yaml --set io.dataset_args.resize_to_w=64 --split validation";

/// The help of `--data`.
const FOLDER: &str = "Folder of the data set [default: the configuration's io.dataset_dir]";

/// All arguments, with what the registered data sets say of it.
pub(crate) fn arguments(command: Command, context: &Context) -> Command {
    let (mut examples, mut notes, mut folder) = (EXAMPLES.to_string(), String::new(), FOLDER.to_string());
    for help in context.all_task_commands().filter_map(TaskCommands::check_help) {
        examples += &format!("\n  {}", help.example);
        notes += &format!("{} ", help.text);
    }
    if let Some(task) = context.tasks().without_configuration() {
        folder = format!(
            "{FOLDER}; without a configuration, it is read as data set {}, with samples of any length",
            task.name()
        );
    }
    let all = match notes.is_empty() {
        true => "Every split is",
        false => "For other data sets,\nevery split is",
    };
    let notes = format!("{notes}{all} opened and every sample is read. The exit code is 1 if a problem is found.");
    CheckArgs::augment_args(command)
        .mut_arg("data", |arg| arg.help(folder))
        .after_help(format!("{examples}\n\n{notes}"))
}

/// Read a whole data set and list every problem that would stop training
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["config", "data"]))]
pub(crate) struct CheckArgs {
    /// Configuration file (YAML) that names the data set
    pub(crate) config: Option<PathBuf>,

    // the help of this argument is in `arguments`
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Change a value of the configuration, such as params.input_seq_len=4096; may be given several
    /// times
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) overrides: Vec<String>,

    /// The split to check
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: CheckSplit,

    /// List at most N problems of each split; all problems are counted
    #[arg(long, value_name = "N", default_value = "20", value_parser = at_least_one())]
    pub(crate) limit: usize,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckSplit {
    /// The training split
    Train,
    /// The validation split, which selects the best model
    Validation,
    /// The test split, on which the best model is measured
    Test,
    /// All splits of the data set
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
