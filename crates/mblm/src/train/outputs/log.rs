//! `train.log`: the history of a run in lines for people. Lines are only ever appended.

use super::clock::Moment;
use crate::train::observer::{BatchReport, Evaluation, EvaluationKind, Event};
use crate::train::trainable::Metric;
use crate::unit::Unit;

/// The name of the file in a run's folder.
pub const TRAIN_LOG: &str = "train.log";

/// Formats a line with its time; further lines of the text are indented below the first.
pub(super) fn line(moment: &Moment, text: &str) -> String {
    format!("{}  {}\n", moment.second(), text.trim_end().replace('\n', "\n    "))
}

/// The log text of an event, if any; `batches` is the length of the run.
pub(super) fn text(event: &Event<'_>, batches: u64, unit: Unit) -> Option<String> {
    match event {
        Event::Start { plan, done: 0 } => Some(format!(
            "training starts: {} batches, {} gradient steps",
            plan.batches, plan.steps
        )),
        Event::Start { plan, done } => Some(format!("training continues after batch {done} of {}", plan.batches)),
        Event::Batch(report) => (report.logged && report.worker == 0).then(|| batch(report, batches, unit)),
        Event::Evaluated(result) => Some(evaluation(result, batches, unit)),
        Event::Evaluating { .. } => None,
        Event::StateSaved { folder, batches } => Some(format!(
            "training state after batch {batches} saved: {}",
            folder.display()
        )),
        Event::Warning(text) => Some(format!("warning: {text}")),
        Event::Stopping => Some("asked to stop".into()),
        Event::End { batches, stopped: true } => Some(format!("training was stopped after batch {batches}")),
        Event::End { batches, .. } => Some(format!("training is done: {batches} batches")),
    }
}

fn batch(report: &BatchReport, batches: u64, unit: Unit) -> String {
    let norm = report
        .norm
        .map_or(String::new(), |norm| match norm.after < norm.before {
            true => format!("  gradient norm {:.4} clipped to {:.4}", norm.before, norm.after),
            false => format!("  gradient norm {:.4}", norm.before),
        });
    format!(
        "batch {} of {batches}, epoch {}  {:.4} {} per {}  loss {:.4} nats  rate {:.3e}{norm}  {:.0} {}/s",
        report.cum_batch + 1,
        report.epoch,
        report.mean_loss.bits_per_byte(),
        report.mean_loss.bits_in_words(),
        unit.singular,
        report.mean_loss.mean,
        report.lr,
        report.speed(unit),
        unit.plural,
    )
}

fn evaluation(evaluation: &Evaluation, batches: u64, unit: Unit) -> String {
    let (what, after) = match evaluation.kind {
        EvaluationKind::Validation => (
            "validation",
            format!(" after batch {} of {batches}", evaluation.cum_batch + 1),
        ),
        EvaluationKind::Test => ("test", String::new()),
    };
    let metric = evaluation.metric.map_or(String::new(), |metric| match metric.name {
        Metric::ACCURACY => format!("{:.2} % right  ", 100.0 * metric.value()),
        name => format!("{name} {:.4}  ", metric.value()),
    });
    let best = if evaluation.best { ", the best so far" } else { "" };
    format!(
        "{what}{after}  {metric}{:.4} {} per {}  loss {:.4} nats  {} samples in {:.1} s{best}",
        evaluation.loss.bits_per_byte(),
        evaluation.loss.bits_in_words(),
        unit.singular,
        evaluation.loss.mean,
        evaluation.samples,
        evaluation.time.as_secs_f64(),
    )
}
