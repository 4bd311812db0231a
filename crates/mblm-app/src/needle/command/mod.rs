//! `mblm needle`: measures how often a model finds a value hidden in text, by context length and
//! depth, as a table and a heat map.

pub(crate) mod args;
#[cfg(feature = "plot")]
mod figure;
#[cfg(not(feature = "plot"))]
#[path = "no_figure.rs"]
mod figure;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::config::{Experiment, ModelConfig};
use mblm::data::Split;
use mblm::generate::Generator;
use mblm::model::{Mblm, Model};
use serde_json::{Map, Value};

use self::args::NeedleArgs;
use self::figure::Figure;
use self::table::Table;
use crate::command::{Command, Context, NextStep, Section, TaskCommands, parse};
use crate::needle::{Found, Haystack, NeedleOptions, NeedleTest, Task};
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{config, device, output, progress, run_folder};

/// The data set that provides the options.
const DATASET: &str = "needle";

/// The shortest default length to test, in bytes.
const SHORTEST: usize = 256;

/// The samples of each length and depth by default.
const SAMPLES: u64 = 20;
/// The fewest samples by default.
const MIN_SAMPLES: u64 = 2;
/// The operations that an ordinary CPU and GPU do in two minutes.
const TWO_MINUTES_CPU: f64 = 4e12;
const TWO_MINUTES_GPU: f64 = 5e15;

/// `mblm needle`.
pub(crate) struct Needle;

impl Command for Needle {
    fn name(&self) -> &'static str {
        "needle"
    }

    fn section(&self) -> Section {
        Section::Tasks
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        NeedleArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

/// The messages of the commands about data set `needle`.
pub(crate) struct NeedleTask;

impl TaskCommands for NeedleTask {
    fn dataset(&self) -> &str {
        DATASET
    }

    fn next_step(&self) -> NextStep {
        NextStep::new("needle", "")
    }
}

fn run(args: &NeedleArgs, context: &Context) -> Result<ExitCode> {
    let figure = args
        .plot
        .as_deref()
        .map(|path| Figure::new(path, args.force))
        .transpose()?;
    let device = device::open(&args.compute.device)?;
    let experiment = experiment(args, context)?;
    let options = options(args, experiment.as_ref())?;
    let task = Task::new(options)?;
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    let model = model.decoder("mblm needle")?;
    let (haystack, text) = haystack(args, experiment.as_ref(), &task, context)?;
    let lengths = lengths(args, model.config(), &task)?;
    let mut table = Table {
        args,
        text,
        test: NeedleTest::new(task, haystack, args.seed),
        cells: vec![vec![Found::default(); args.depths.len()]; lengths.len()],
        samples: samples(args, model, &lengths, context)?,
        lengths,
        stopped: false,
    };
    table.check(model.config())?;
    let signals = Signals::listen()?;
    table.fill(model, &signals, context.quiet())?;
    if let Some(figure) = figure {
        figure.write(&table)?;
    }
    match args.json {
        true => output::json(table.json())?,
        false => {
            table.print()?;
            if args.plot.is_none() {
                context.suggest(&format!("needle -m {} --plot found.svg", args.model.model.display()));
            }
        }
    }
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Returns the given configuration, else the configuration of the run folder given as the model.
fn experiment(args: &NeedleArgs, context: &Context) -> Result<Option<Experiment>> {
    let of_run = args.model.model.join(run_folder::CONFIG);
    match &args.config {
        Some(path) => Ok(Some(config::read(path, &[], context)?)),
        None if of_run.is_file() => Ok(Some(config::read(&of_run, &[], context)?)),
        None => Ok(None),
    }
}

/// Returns the options of the data set: the options of a configuration of data set `needle`,
/// changed by `--option`.
fn options(args: &NeedleArgs, experiment: Option<&Experiment>) -> Result<NeedleOptions> {
    let mut options = match experiment {
        Some(experiment) if experiment.io.dataset_id == DATASET => {
            experiment.io.dataset_args.clone().unwrap_or_default()
        }
        _ => Map::new(),
    };
    for option in &args.options {
        let Some((key, value)) = option.split_once('=') else {
            return Err(Usage(format!("--option {option}: expected KEY=VALUE, such as needles=4")).into());
        };
        // a value that is not JSON is text
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        options.insert(key.trim().to_string(), value);
    }
    serde_json::from_value(Value::Object(options))
        .map_err(|error| Usage(format!("options of data set {DATASET}: {error}")).into())
}

/// Returns the text to hide needles in, and its path and split.
fn haystack(
    args: &NeedleArgs,
    experiment: Option<&Experiment>,
    task: &Task,
    context: &Context,
) -> Result<(Haystack, (PathBuf, Option<Split>))> {
    let on_opening = progress::opening_bar(context.quiet());
    let split = args.split.map(Split::from);
    let (dir, split) = match (&args.data, experiment) {
        (Some(data), _) => (data, split),
        (None, Some(experiment)) => (&experiment.io.dataset_dir, Some(split.unwrap_or(Split::Validation))),
        (None, None) => {
            return Err(Usage(
                "expected text to hide needles in: give --data, or --config with the configuration of a run (a run's folder as \
                 --model has its own)"
                    .into(),
            )
            .into());
        }
    };
    let options = task.options();
    let haystack = match split {
        None => Haystack::open(dir, options, on_opening)?,
        Some(split) => Haystack::of_split(dir, split, options, on_opening)?.ok_or_else(|| {
            let message = format!("--split {split}: {} has no split of that name", dir.display());
            Usage(format!(
                "{message}; try another --split, or --data without one for all of it"
            ))
        })?,
    };
    Ok((haystack, (dir.clone(), split)))
}

/// Returns the samples of each cell: by default [`SAMPLES`], fewer if they would take longer than
/// two minutes on an ordinary device. The number depends on the model and the options alone, so
/// that two runs on similar devices test the same samples.
fn samples(args: &NeedleArgs, model: &Arc<Mblm>, lengths: &[usize], context: &Context) -> Result<u64> {
    if let Some(samples) = args.samples {
        return Ok(samples);
    }
    let generator = Generator::new(model.clone())?;
    let of_one: f64 = lengths.iter().map(|len| generator.prefill_flops(0, *len)).sum();
    let budget = match model.device().is_cpu() {
        true => TWO_MINUTES_CPU,
        false => TWO_MINUTES_GPU,
    };
    let fit = budget / (of_one * args.depths.len() as f64);
    let samples = SAMPLES.min(fit as u64).max(MIN_SAMPLES);
    if samples < SAMPLES && !context.quiet() {
        output::note(&format!(
            "{samples} samples of each length and depth, for about two minutes; --samples {SAMPLES} measures more exactly"
        ));
    }
    Ok(samples)
}

/// Returns the lengths to test, in bytes.
fn lengths(args: &NeedleArgs, model: &ModelConfig, task: &Task) -> Result<Vec<usize>> {
    if args.lengths.is_empty() {
        let context = model.context();
        let mut lengths: Vec<usize> = (0..usize::BITS)
            .map(|power| 1 << power)
            .filter(|length| (SHORTEST..context).contains(length) && task.haystack_len(*length).is_ok())
            .collect();
        lengths.push(context);
        return Ok(lengths);
    }
    let mut lengths = Vec::with_capacity(args.lengths.len());
    for length in &args.lengths {
        let longest = model.longest_input().unwrap_or(usize::MAX);
        match usize::try_from(length.as_u64()) {
            Ok(length) if length <= longest => lengths.push(length),
            _ => {
                return Err(Usage(format!(
                    "--lengths: a sample of {} bytes, but the model has fixed positions for {longest} bytes; give at most that",
                    length.as_u64()
                ))
                .into());
            }
        }
    }
    Ok(lengths)
}
