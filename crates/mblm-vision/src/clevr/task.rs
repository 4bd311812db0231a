//! The task `clevr`: its data set, and the report of a check.

use std::ops::ControlFlow;
use std::sync::Arc;

use mblm::data::{Dataset, DatasetArgs};
use mblm::task::{CheckReport, Checking, Task, grouped};
use mblm::{Error, Result};
use serde_json::{Value, json};

use super::check::{Report, check};
use super::dataset::Clevr;

/// The name of the data set in a configuration.
pub const NAME: &str = "clevr";

/// Questions about images.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClevrTask;

impl Task for ClevrTask {
    fn name(&self) -> &str {
        NAME
    }

    fn open(&self, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
        Ok(Clevr::open(args)?.map(|clevr| Arc::new(clevr) as Arc<dyn Dataset>))
    }

    fn checks_without_configuration(&self) -> bool {
        true
    }

    /// Reads every question and decodes and prepares every image; [`DatasetArgs::on_opening`]
    /// receives the progress.
    fn check(
        &self,
        args: &DatasetArgs,
        limit: usize,
        _: &mut dyn FnMut(Checking) -> ControlFlow<()>,
    ) -> Result<Option<CheckReport>> {
        check(args, limit)?.map(|report| summary(&report, args)).transpose()
    }
}

fn summary(report: &Report, args: &DatasetArgs) -> Result<CheckReport> {
    let mut json = serde_json::to_value(report).map_err(|error| Error::input(error.to_string()))?;
    json["split"] = args.split.name().into();
    json["types"] = report
        .types
        .iter()
        .map(|(kind, count)| json!({"type": kind, "questions": count}))
        .collect();
    if args.sample_len == DatasetArgs::UNBOUNDED {
        json["input_seq_len"] = Value::Null;
    }
    Ok(CheckReport {
        samples: report.questions,
        notes: notes(report, args.sample_len),
        problems: report.problems.iter().map(ToString::to_string).collect(),
        problem_count: report.problem_count,
        json,
    })
}

/// Returns the content of a split as lines for people.
fn notes(report: &Report, sample_len: usize) -> Vec<String> {
    let kinds = report.types.iter().map(|(kind, count)| {
        let name = kind.map_or("of no known type", |kind| kind.name());
        format!("{} {name}", grouped(*count as u64))
    });
    let kinds: Vec<String> = kinds.collect();
    let mut notes = vec![
        format!("{} images", grouped(report.images as u64)),
        format!("questions: {}", kinds.join(", ")),
    ];
    if let Some(longest) = report.longest {
        let of = match sample_len {
            DatasetArgs::UNBOUNDED => String::new(),
            bound => format!(" of {}", grouped(bound as u64)),
        };
        let [question, image, _, answer] = longest.parts;
        notes.push(format!(
            "longest sample: {}{of} ids, question {} (twice {question}, image {image}, answer {answer})",
            grouped(longest.ids as u64),
            longest.question
        ));
    }
    notes
}
