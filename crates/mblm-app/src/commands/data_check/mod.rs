//! `mblm data check`: reads all of a data set, and lists what is wrong with it.

pub(crate) mod args;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::ArgMatches;
use mblm::config::Experiment;
use mblm::data::{DatasetArgs, Split};
use mblm::train::{dataset_args, open_split};
use serde_json::{Map, Value, json};

use self::args::CheckArgs;
use crate::command::{CheckedSplit, Command, Context, DataCheck, TaskCommands, UNBOUNDED, parse};
use crate::output::{self, grouped, listed};
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{config, progress};

/// Whose data is looked at.
enum Source<'a> {
    /// That of a model of bytes.
    Bytes(Box<Experiment>),
    /// That of another kind of run or of a folder by itself, whose samples may be of any length.
    Unbounded {
        folder: PathBuf,
        options: Map<String, Value>,
        dataset: String,
        check: &'a dyn DataCheck,
    },
}

impl<'a> Source<'a> {
    fn new(args: &CheckArgs, context: &'a Context) -> Result<Self> {
        let Some(path) = &args.config else {
            let mut tasks: Vec<_> = context.all_task_commands().collect();
            tasks.retain(|task| task.check().is_some_and(DataCheck::takes_folders));
            let found = tasks.last().and_then(|task| Some((task.dataset(), task.check()?)));
            let Some((dataset, check)) = found else {
                return Err(Usage("--data: expected a configuration, which says what data set this is".into()).into());
            };
            return Ok(Self::Unbounded {
                folder: args.data.clone().unwrap_or_default(),
                options: Map::new(),
                dataset: dataset.to_string(),
                check,
            });
        };
        if let Some(kind) = context.run_kind(path) {
            let io = kind.data(path, &args.overrides)?;
            let Some(check) = context.task_commands(&io.dataset_id).and_then(TaskCommands::check) else {
                let message = format!("{}: data set {} has no check of its own", path.display(), io.dataset_id);
                return Err(Usage(message).into());
            };
            return Ok(Self::Unbounded {
                folder: args.data.clone().unwrap_or(io.dataset_dir),
                options: io.dataset_args.unwrap_or_default(),
                dataset: io.dataset_id,
                check,
            });
        }
        let mut experiment = config::read(path, &args.overrides, context)?;
        if let Some(data) = &args.data {
            experiment.io.dataset_dir.clone_from(data);
        }
        Ok(Self::Bytes(Box::new(experiment)))
    }

    /// The name of the data set.
    fn dataset(&self) -> &str {
        match self {
            Self::Bytes(experiment) => &experiment.io.dataset_id,
            Self::Unbounded { dataset, .. } => dataset,
        }
    }
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
        args::arguments(command, context.all_task_commands())
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &CheckArgs, context: &Context) -> Result<ExitCode> {
    let signals = Signals::listen()?;
    let source = Source::new(args, context)?;
    let dataset = source.dataset();
    let mut checked = Vec::new();
    for &split in args.split.splits() {
        let on_opening = progress::opening_bar(context.quiet());
        let found = match &source {
            Source::Bytes(experiment) => match context.task_commands(dataset).and_then(TaskCommands::check) {
                Some(check) => check.check(&dataset_args(experiment, split, on_opening), args.limit)?,
                None => samples(experiment, split, args.limit, context, &signals)?,
            },
            Source::Unbounded {
                folder, options, check, ..
            } => {
                let dataset = DatasetArgs {
                    options: options.clone(),
                    on_opening,
                    ..DatasetArgs::new(folder, split, UNBOUNDED)
                };
                check.check(&dataset, args.limit)?
            }
        };
        checked.extend(found);
        if signals.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    if checked.is_empty() {
        return Err(Usage(format!("data set {dataset} has no such split; try another --split")).into());
    }
    let problems: usize = checked.iter().map(|split| split.problems).sum();
    if args.json {
        let splits: Vec<&Value> = checked.iter().map(|split| &split.json).collect();
        output::json(json!({"dataset": dataset, "problems": problems, "splits": splits}))?;
    } else {
        for split in &checked {
            let found = match split.problems {
                0 => "nothing is wrong".to_string(),
                1 => "1 problem".to_string(),
                count => format!("{} problems", grouped(count as u64)),
            };
            output::line(&format!(
                "{}: {} samples, {found}",
                split.split,
                grouped(split.samples as u64)
            ))?;
            for line in &split.lines {
                output::line(&format!("  {line}"))?;
            }
        }
    }
    match signals.exit_code() {
        Some(code) => Ok(ExitCode::from(code)),
        None if problems > 0 => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// A split of any other data set: opened, and each sample of the first epoch read.
fn samples(
    experiment: &Experiment,
    split: Split,
    limit: usize,
    context: &Context,
    signals: &Signals,
) -> Result<Option<CheckedSplit>> {
    let opened = open_split(
        experiment,
        context.tasks(),
        split,
        progress::opening_bar(context.quiet()),
    )?;
    let Some(dataset) = opened else { return Ok(None) };
    let samples = dataset.len(0);
    let bar = progress::byte_bar(Some(dataset.bytes()), context.quiet());
    let (mut problems, mut count) = (Vec::new(), 0);
    for index in 0..samples {
        match dataset.sample(index, 0) {
            Ok(sample) => bar.inc(sample.ids.len() as u64),
            Err(error) => {
                count += 1;
                if problems.len() < limit {
                    problems.push(error.to_string());
                }
            }
        }
        if signals.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    bar.finish_and_clear();
    let json = json!({
        "split": split.name(), "samples": samples, "description": dataset.describe(), "problems": problems,
        "problem_count": count,
    });
    let lines = std::iter::once(dataset.describe()).chain(listed(problems.into_iter(), count));
    Ok(Some(
        CheckedSplit::new(split, samples, count, json).with_lines(lines.collect()),
    ))
}
