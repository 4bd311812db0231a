//! `mblm data check`: reads all of a data set, and lists what is wrong with it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use mblm::config::{ClassifierExperiment, Experiment};
use mblm::data::clevr::{self, Report};
use mblm::data::{DatasetArgs, Registry, Split};
use mblm::train::{dataset_args, open_split};
use serde_json::{Map, Value, json};

use crate::args::{CheckArgs, Cli, Usage};
use crate::commands::vqa::DATASET as CLEVR;
use crate::output::{self, grouped};
use crate::signals::Signals;
use crate::{config, progress};

/// Ids of a sample where nothing bounds them: more than any sample has, and no number that overflows.
const UNBOUNDED: usize = u32::MAX as usize;

/// Whose data is looked at.
enum Source {
    /// That of a model of bytes.
    Bytes(Box<Experiment>),
    /// Pictures and questions, whose samples may be of any length.
    Questions {
        folder: PathBuf,
        options: Map<String, Value>,
    },
}

impl Source {
    fn new(args: &CheckArgs) -> Result<Self> {
        Ok(match &args.config {
            Some(path) if ClassifierExperiment::is_in(path) => {
                let io = config::usage(ClassifierExperiment::from_file(path, &args.overrides))?.io;
                Self::Questions {
                    folder: args.data.clone().unwrap_or(io.dataset_dir),
                    options: io.dataset_args.unwrap_or_default(),
                }
            }
            Some(path) => {
                let mut experiment = config::read(path, &args.overrides)?;
                if let Some(data) = &args.data {
                    experiment.io.dataset_dir.clone_from(data);
                }
                Self::Bytes(Box::new(experiment))
            }
            None => Self::Questions {
                folder: args.data.clone().unwrap_or_default(),
                options: Map::new(),
            },
        })
    }

    /// The name of the data set.
    fn dataset(&self) -> &str {
        match self {
            Self::Bytes(experiment) => &experiment.io.dataset_id,
            Self::Questions { .. } => CLEVR,
        }
    }
}

/// What is known of a split.
struct Checked {
    split: Split,
    samples: usize,
    problems: usize,
    lines: Vec<String>,
    json: Value,
}

pub(crate) fn run(args: &CheckArgs, cli: &Cli) -> Result<ExitCode> {
    let signals = Signals::listen()?;
    let source = Source::new(args)?;
    let dataset = source.dataset();
    let mut checked = Vec::new();
    for &split in args.split.splits() {
        let on_opening = progress::opening_bar(cli.quiet);
        let found = match &source {
            Source::Bytes(experiment) if dataset == CLEVR => {
                questions(&dataset_args(experiment, split, on_opening), args.limit)?
            }
            Source::Bytes(experiment) => samples(experiment, split, args.limit, cli, &signals)?,
            Source::Questions { folder, options } => {
                let dataset = DatasetArgs {
                    options: options.clone(),
                    on_opening,
                    ..DatasetArgs::new(folder, split, UNBOUNDED)
                };
                questions(&dataset, args.limit)?
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

/// A split of clevr; `None` if there is no such split.
fn questions(dataset: &DatasetArgs, limit: usize) -> Result<Option<Checked>> {
    let Some(report) = clevr::check(dataset, limit)? else {
        return Ok(None);
    };
    let mut json = serde_json::to_value(&report)?;
    json["split"] = dataset.split.name().into();
    json["types"] = report
        .types
        .iter()
        .map(|(kind, count)| json!({"type": kind, "questions": count}))
        .collect();
    if dataset.sample_len == UNBOUNDED {
        json["input_seq_len"] = Value::Null;
    }
    Ok(Some(Checked {
        split: dataset.split,
        samples: report.questions,
        problems: report.problem_count,
        lines: lines(&report, dataset.sample_len),
        json,
    }))
}

/// What a report says, for people.
fn lines(report: &Report, sample_len: usize) -> Vec<String> {
    let kinds = report.types.iter().map(|(kind, count)| {
        let name = kind.map_or("of no known type", |kind| kind.name());
        format!("{} {name}", grouped(*count as u64))
    });
    let kinds: Vec<String> = kinds.collect();
    let mut lines = vec![
        format!("{} images", grouped(report.images as u64)),
        format!("questions: {}", kinds.join(", ")),
    ];
    if let Some(longest) = report.longest {
        let of = match sample_len {
            UNBOUNDED => String::new(),
            bound => format!(" of {}", grouped(bound as u64)),
        };
        let [question, image, _, answer] = longest.parts;
        lines.push(format!(
            "longest sample: {}{of} ids, question {} (twice {question}, image {image}, answer {answer})",
            grouped(longest.ids as u64),
            longest.question
        ));
    }
    lines.extend(listed(
        report.problems.iter().map(ToString::to_string),
        report.problem_count,
    ));
    lines
}

/// The first problems of so many in all, and how many are left.
fn listed(problems: impl ExactSizeIterator<Item = String>, all: usize) -> impl Iterator<Item = String> {
    let more = match all - problems.len() {
        0 => None,
        1 => Some("1 more problem; --limit lists more".to_string()),
        more => Some(format!("{} more problems; --limit lists more", grouped(more as u64))),
    };
    problems.chain(more)
}

/// A split of any other data set: opened, and each sample of the first epoch read.
fn samples(
    experiment: &Experiment,
    split: Split,
    limit: usize,
    cli: &Cli,
    signals: &Signals,
) -> Result<Option<Checked>> {
    let opened = open_split(
        experiment,
        &Registry::default(),
        split,
        progress::opening_bar(cli.quiet),
    )?;
    let Some(dataset) = opened else { return Ok(None) };
    let samples = dataset.len(0);
    let bar = progress::byte_bar(Some(dataset.bytes()), cli.quiet);
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
    Ok(Some(Checked {
        split,
        samples,
        problems: count,
        lines: lines.collect(),
        json,
    }))
}
