//! The built-in commands, one folder each: the arguments with their help, and the code.

mod bench;
mod completions;
mod config_keys;
mod convert;
mod data_check;
mod data_info;
mod doctor;
mod eval;
pub(crate) mod generate;
mod init;
mod inspect;
mod plan;
#[cfg(feature = "plot")]
mod plot;
mod runs;
mod score;
pub(crate) mod train;
mod verify;

use crate::command::{Entry, Group, Section, TaskCommands};
use crate::needle::command::{Needle, NeedleTask};

/// Returns all built-in commands, in the order of the help.
pub(crate) fn builtin() -> Vec<Entry> {
    vec![
        Entry::command(init::Init),
        Entry::command(train::Train),
        Entry::command(plan::PlanCommand),
        Entry::command(generate::Generate),
        Entry::command(score::ScoreCommand),
        Entry::command(eval::Eval),
        Entry::Group(
            Group::new("data", "Inspect data, check data sets, and make synthetic ones").within(Section::Data),
        ),
        Entry::command(data_info::DataInfo),
        Entry::command(data_check::DataCheckCommand),
        Entry::command(Needle),
        Entry::command(inspect::Inspect),
        Entry::command(convert::Convert),
        #[cfg(feature = "plot")]
        Entry::command(plot::Plot),
        Entry::Group(Group::new("config", "Show the keys that a configuration can have").within(Section::Models)),
        Entry::command(config_keys::Schema),
        Entry::command(config_keys::KeysCommand),
        Entry::command(runs::Runs),
        Entry::command(runs::Compare),
        Entry::command(verify::Verify),
        Entry::command(doctor::Doctor),
        Entry::command(bench::Bench),
        Entry::command(completions::Completions),
    ]
}

/// Returns the messages about built-in data sets.
pub(crate) fn task_commands() -> Vec<Box<dyn TaskCommands>> {
    vec![Box::new(NeedleTask)]
}
