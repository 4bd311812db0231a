//! `mblm needle`: how often a model finds a value hidden in text, by length of the context and depth, as table and heat map.

pub(crate) mod args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::checkpoint::atomic;
use mblm::config::{Experiment, ModelConfig};
use mblm::data::Split;
use mblm::generate::Generator;
use mblm::model::{Mblm, Model};
use serde_json::{Map, Value, json};

use self::args::NeedleArgs;
use crate::command::{Command, Context, NextStep, TaskCommands, parse};
use crate::drawing::{Format, HeatMap};
use crate::needle::{Found, Haystack, ModelReader, NeedleOptions, NeedleTest, Task};
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{config, device, output, progress, run_folder};

/// The data set whose options are used.
const DATASET: &str = "needle";

/// The shortest length that is tested by default, in bytes.
const SHORTEST: usize = 256;

/// `mblm needle`.
pub(crate) struct Needle;

impl Command for Needle {
    fn name(&self) -> &'static str {
        "needle"
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        NeedleArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

/// What the commands know of data set `needle`.
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
    let format = args.plot.as_deref().map(figure_format).transpose()?;
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
        lengths,
        stopped: false,
    };
    table.check(model.config())?;
    let signals = Signals::listen()?;
    table.fill(model, &signals, context.quiet())?;
    if let (Some(path), Some(format)) = (&args.plot, format) {
        let image = format.render(&table.figure())?;
        atomic::write(path, |out| out.write_all(&image))?;
    }
    match args.json {
        true => output::json(table.json())?,
        false => table.print()?,
    }
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// The kind of figure to write, which is not there yet.
fn figure_format(path: &Path) -> Result<Format, Usage> {
    let format = Format::of(path).map_err(|Usage(message)| Usage(format!("--plot {message}")))?;
    match path.exists() {
        true => Err(Usage(format!(
            "--plot {}: is there already; remove it, or give another name",
            path.display()
        ))),
        false => Ok(format),
    }
}

/// The configuration that was given, else that of the run whose folder the model is.
fn experiment(args: &NeedleArgs, context: &Context) -> Result<Option<Experiment>> {
    let of_run = args.model.model.join(run_folder::CONFIG);
    match &args.config {
        Some(path) => Ok(Some(config::read(path, &[], context)?)),
        None if of_run.is_file() => Ok(Some(config::read(&of_run, &[], context)?)),
        None => Ok(None),
    }
}

/// The options of the data set: those of the configuration, if it has this data set, changed by `--option`.
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
        // what is no JSON is text
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        options.insert(key.trim().to_string(), value);
    }
    serde_json::from_value(Value::Object(options))
        .map_err(|error| Usage(format!("options of data set {DATASET}: {error}")).into())
}

/// The text to hide needles in, and where it is from.
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
        None => Haystack::open(dir, options.text_field.clone(), on_opening)?,
        Some(split) => Haystack::of_split(dir, split, options, on_opening)?.ok_or_else(|| {
            let message = format!("--split {split}: {} has no split of that name", dir.display());
            Usage(format!(
                "{message}; try another --split, or --data without one for all of it"
            ))
        })?,
    };
    Ok((haystack, (dir.clone(), split)))
}

/// The lengths to test, in bytes.
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

/// What is tested, and what was found so far: a row a length, a column a depth.
struct Table<'a> {
    args: &'a NeedleArgs,
    text: (PathBuf, Option<Split>),
    test: NeedleTest,
    lengths: Vec<usize>,
    cells: Vec<Vec<Found>>,
    stopped: bool,
}

impl Table<'_> {
    /// Fails on lengths that there are no samples of, and warns of those that cannot be answered.
    fn check(&self, model: &ModelConfig) -> Result<()> {
        let patch = model.patch_bytes(0);
        for length in &self.lengths {
            self.test
                .check(*length)
                .map_err(|error| Usage(format!("a length of {length} bytes: {error}")))?;
            if !self.test.task().answerable(*length, patch) {
                tracing::warn!(
                    "samples of {length} bytes: the value asked for begins in the same patch of {patch} bytes that its key ends \
                     in, where a model of several stages cannot know it; use --option align={patch}, or a query_format with more \
                     text between key and value"
                );
            }
        }
        Ok(())
    }

    /// Reads all samples, until a signal comes.
    fn fill(&mut self, model: &Arc<Mblm>, signals: &Signals, quiet: bool) -> Result<()> {
        let of_lengths = self
            .lengths
            .iter()
            .fold(0, |sum: u64, len| sum.saturating_add(*len as u64));
        let samples = self.args.samples.saturating_mul(self.args.depths.len() as u64);
        let bar = progress::byte_bar(Some(of_lengths.saturating_mul(samples)), quiet);
        let generator = Generator::new(model.clone())?;
        let mut reader = ModelReader::new(&generator);
        for (row, length) in self.lengths.iter().enumerate() {
            for (column, depth) in self.args.depths.iter().enumerate() {
                let mut first = 0;
                while first < self.args.samples {
                    if signals.stopped() {
                        self.stopped = true;
                        bar.finish_and_clear();
                        return Ok(());
                    }
                    let last = (first + self.args.batch_size).min(self.args.samples);
                    let found = self.test.read(&mut reader, *length, depth / 100.0, first..last)?;
                    self.cells[row][column].add(found);
                    bar.inc((last - first) * *length as u64);
                    first = last;
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// All cells together.
    fn all(&self) -> Found {
        self.cells.iter().flatten().fold(Found::default(), |mut all, cell| {
            all.add(*cell);
            all
        })
    }

    fn print(&self) -> Result<()> {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let title = format!("values found, % of {} samples", self.args.samples);
        self.print_table(&title, |cell| percent(cell.accuracy()))?;
        self.print_table("\nbytes of the values right, %", |cell| percent(cell.byte_accuracy()))?;
        self.print_table("\nloss of the values, bits per byte", |cell| {
            format!("{:.3}", cell.value.bits_per_byte())
        })?;
        let all = self.all();
        let stopped = if self.stopped { " (stopped)" } else { "" };
        let share = percent(all.accuracy());
        output::line(&format!(
            "\n{} of {} values found, {share} %{stopped}",
            all.hits, all.samples
        ))?;
        if let Some(path) = &self.args.plot {
            output::line(&format!("{}: the values found as a heat map", path.display()))?;
        }
        Ok(())
    }

    /// A row a length, a column a depth.
    fn print_table(&self, title: &str, number: impl Fn(&Found) -> String) -> Result<()> {
        output::line(title)?;
        let depths = self.args.depths.iter().map(|depth| format!("{depth} %"));
        let columns: String = depths.map(|depth| format!(" {depth:>9}")).collect();
        output::line(&format!("{:>14}{columns}", "bytes \\ depth"))?;
        for (length, row) in self.lengths.iter().zip(&self.cells) {
            let numbers = row.iter().map(|cell| match cell.samples {
                0 => "-".to_string(),
                _ => number(cell),
            });
            let columns: String = numbers.map(|number| format!(" {number:>9}")).collect();
            output::line(&format!("{length:>14}{columns}"))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let all = self.all();
        let mut cells = Vec::new();
        for (length, row) in self.lengths.iter().zip(&self.cells) {
            for (depth, cell) in self.args.depths.iter().zip(row) {
                let mut object = json!({ "length_bytes": length, "depth_percent": depth });
                for (key, value) in numbers(cell) {
                    object[key] = value;
                }
                cells.push(object);
            }
        }
        let mut object = json!({
            "data": self.text.0, "split": self.text.1.map(Split::name), "seed": self.args.seed,
            "options": self.test.task().options(), "plot": self.args.plot, "stopped": self.stopped, "cells": cells,
        });
        for (key, value) in numbers(&all) {
            object[key] = value;
        }
        object
    }

    fn figure(&self) -> HeatMap {
        let options = self.test.task().options();
        let share = |cell: &Found| (cell.samples > 0).then(|| cell.accuracy());
        // depths down, lengths along
        let shares = (0..self.args.depths.len()).map(|depth| self.cells.iter().map(|row| share(&row[depth])).collect());
        HeatMap {
            title: format!(
                "values found, % of {} samples, needles in each: {}",
                self.args.samples, options.needles
            ),
            x_label: "length of the context (bytes)".into(),
            y_label: "depth".into(),
            columns: self
                .lengths
                .iter()
                .map(|length| output::grouped(*length as u64))
                .collect(),
            rows: self.args.depths.iter().map(|depth| format!("{depth} %")).collect(),
            shares: shares.collect(),
        }
    }
}

/// What was found, for programs.
fn numbers(found: &Found) -> [(&'static str, Value); 5] {
    [
        ("samples", found.samples.into()),
        ("hits", found.hits.into()),
        ("accuracy", found.accuracy().into()),
        ("byte_accuracy", found.byte_accuracy().into()),
        ("bits_per_byte", found.value.bits_per_byte().into()),
    ]
}
