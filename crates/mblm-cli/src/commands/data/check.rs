//! `mblm data check`: reads all of a data set, and lists what is wrong with it.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use mblm::config::Experiment;
use mblm::data::clevr::{self, Report};
use mblm::data::{DatasetArgs, Registry, Split};
use mblm::train::{dataset_args, open_split};
use serde_json::{Value, json};

use crate::args::{CheckArgs, Cli, Usage};
use crate::commands::vqa::DATASET as CLEVR;
use crate::output::{self, grouped};
use crate::signals::Signals;
use crate::{config, progress};

/// Ids of a sample where nothing bounds them: more than any sample has, and no number that overflows.
const UNBOUNDED: usize = u32::MAX as usize;

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
    let experiment = match &args.config {
        Some(path) => {
            let mut experiment = config::read(path, &args.overrides)?;
            if let Some(data) = &args.data {
                experiment.io.dataset_dir.clone_from(data);
            }
            Some(experiment)
        }
        None => None,
    };
    let dataset = experiment
        .as_ref()
        .map_or(CLEVR, |experiment| &experiment.io.dataset_id);
    let mut checked = Vec::new();
    for &split in args.split.splits() {
        let found = match (&experiment, &args.data) {
            (Some(experiment), _) if dataset != CLEVR => samples(experiment, split, args.limit, cli, &signals)?,
            (experiment, data) => questions(experiment.as_ref(), data.as_deref(), split, args.limit, cli)?,
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
fn questions(
    experiment: Option<&Experiment>,
    data: Option<&std::path::Path>,
    split: Split,
    limit: usize,
    cli: &Cli,
) -> Result<Option<Checked>> {
    let on_opening = progress::opening_bar(cli.quiet);
    let dataset = match (experiment, data) {
        (Some(experiment), _) => dataset_args(experiment, split, on_opening),
        (None, data) => DatasetArgs {
            on_opening,
            ..DatasetArgs::new(data.unwrap_or(std::path::Path::new("")), split, UNBOUNDED)
        },
    };
    let Some(report) = clevr::check(&dataset, limit)? else {
        return Ok(None);
    };
    let mut json = serde_json::to_value(&report)?;
    json["split"] = split.name().into();
    json["types"] = report
        .types
        .iter()
        .map(|(kind, count)| json!({"type": kind, "questions": count}))
        .collect();
    if dataset.sample_len == UNBOUNDED {
        json["input_seq_len"] = Value::Null;
    }
    Ok(Some(Checked {
        split,
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
