//! `mblm data check`: reads a whole data set and lists its problems.

pub(crate) mod args;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::ArgMatches;
use mblm::data::{DatasetArgs, Split};
use mblm::task::{CheckReport, Checking};
use mblm::train::dataset_args;
use serde_json::{Value, json};

use self::args::CheckArgs;
use crate::command::{Command, Context, parse};
use crate::output::{self, grouped, listed};
use crate::patience::Patience;
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{config, progress};

/// The data to check.
struct Source {
    /// The name of the data set.
    dataset: String,
    /// The arguments with which each split is opened.
    args: DatasetArgs,
}

impl Source {
    fn new(args: &CheckArgs, context: &Context) -> Result<Self> {
        let mut source = match &args.config {
            None => Self::folder(context)?,
            Some(path) => match context.run_kind(path) {
                Some(kind) => {
                    let io = kind.data(path, &args.overrides, context)?;
                    Self {
                        dataset: io.dataset_id,
                        args: DatasetArgs {
                            options: io.dataset_args.unwrap_or_default(),
                            ..DatasetArgs::new(io.dataset_dir, Split::Train, DatasetArgs::UNBOUNDED)
                        },
                    }
                }
                None => {
                    let experiment = config::read(path, &args.overrides, context)?;
                    Self {
                        args: dataset_args(&experiment, Split::Train, None),
                        dataset: experiment.io.dataset_id,
                    }
                }
            },
        };
        if let Some(data) = &args.data {
            source.args.dir.clone_from(data);
        }
        Ok(source)
    }

    /// A folder without a configuration, with samples of any length.
    fn folder(context: &Context) -> Result<Self> {
        match context.tasks().without_configuration() {
            Some(task) => Ok(Self {
                dataset: task.name().to_string(),
                args: DatasetArgs::new("", Split::Train, DatasetArgs::UNBOUNDED),
            }),
            None => Err(Usage("--data: expected a configuration as well, for the kind of the data set".into()).into()),
        }
    }
}

/// A split and its report.
struct CheckedSplit {
    split: Split,
    report: CheckReport,
}

/// `mblm data check`.
pub(crate) struct DataCheckCommand;

impl Command for DataCheckCommand {
    fn name(&self) -> &'static str {
        "check"
    }

    fn parent(&self) -> Option<&'static str> {
        Some("data")
    }

    fn arguments(&self, command: clap::Command, context: &Context) -> clap::Command {
        args::arguments(command, context)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &CheckArgs, context: &Context) -> Result<ExitCode> {
    let signals = Signals::listen()?;
    let _patience = Patience::with(&signals, || "the last file was not checked to its end".into())?;
    let Source { dataset, args: opening } = Source::new(args, context)?;
    let mut checked = Vec::new();
    for &split in args.split.splits() {
        let opening = DatasetArgs {
            split,
            on_opening: progress::opening_bar(context.quiet()),
            ..opening.clone()
        };
        let bar = progress::byte_bar(Some(0), context.quiet());
        let found = context
            .tasks()
            .check(&dataset, &opening, args.limit, &mut |checking: Checking| {
                bar.set_length(checking.total);
                bar.set_position(checking.done);
                match signals.stop.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        bar.finish_and_clear();
        checked.extend(found?.map(|report| CheckedSplit { split, report }));
        if signals.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    if checked.is_empty() {
        return Err(Usage(format!("data set {dataset} has no such split; try another --split")).into());
    }
    let problems: usize = checked.iter().map(|split| split.report.problem_count).sum();
    match args.json {
        true => {
            let splits: Vec<&Value> = checked.iter().map(|split| &split.report.json).collect();
            output::json(json!({"dataset": dataset, "problems": problems, "splits": splits}))?;
        }
        false => checked.into_iter().try_for_each(print)?,
    }
    match signals.exit_code() {
        Some(code) => Ok(ExitCode::from(code)),
        None if problems > 0 => Ok(ExitCode::FAILURE),
        None => {
            if let Some(config) = args.config.as_ref().filter(|_| !args.json) {
                context.suggest(&format!("train {}", config.display()));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints the report of a split as text.
fn print(CheckedSplit { split, report }: CheckedSplit) -> std::io::Result<()> {
    let found = match report.problem_count {
        0 => "nothing is wrong".to_string(),
        1 => "1 problem".to_string(),
        count => format!("{} problems", grouped(count as u64)),
    };
    output::line(&format!("{split}: {} samples, {found}", grouped(report.samples as u64)))?;
    let problems = listed(report.problems.into_iter(), report.problem_count);
    report
        .notes
        .into_iter()
        .chain(problems)
        .try_for_each(|line| output::line(&format!("  {line}")))
}
