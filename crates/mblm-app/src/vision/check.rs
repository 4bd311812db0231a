//! `mblm data check` of clevr: every question read, every image decoded and prepared.

use anyhow::Result;
use mblm::data::DatasetArgs;
use mblm::data::clevr::{self, Report};
use serde_json::{Value, json};

use crate::command::{CheckedSplit, DataCheck, UNBOUNDED};
use crate::output::{grouped, listed};

/// The check of clevr.
pub(super) struct ClevrCheck;

impl DataCheck for ClevrCheck {
    fn check(&self, dataset: &DatasetArgs, limit: usize) -> Result<Option<CheckedSplit>> {
        questions(dataset, limit)
    }

    fn example(&self) -> &str {
        "mblm data check --data CLEVR_v1.0 --json"
    }

    fn help(&self) -> &str {
        "\
Of clevr every question is read and every image decoded and prepared as the configuration says; missing, truncated and damaged
images, answers outside the map and samples longer than input_seq_len are listed with file and question."
    }

    fn takes_folders(&self) -> bool {
        true
    }
}

/// A split of clevr; `None` if there is no such split.
fn questions(dataset: &DatasetArgs, limit: usize) -> Result<Option<CheckedSplit>> {
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
    let checked = CheckedSplit::new(dataset.split, report.questions, report.problem_count, json);
    Ok(Some(checked.with_lines(lines(&report, dataset.sample_len))))
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
