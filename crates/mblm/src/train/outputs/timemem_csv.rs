//! `timemem.csv`: time and memory of logged batches and evaluations, as in the Python package.
//!
//! ```text
//! cum_batch,num_items,kind,fw_time,bw_time,allocated,allocated_max,reserved,reserved_max,total
//! 0,8,train,0.41,0.92,524288000,629145600,1073741824,1073741824,16777216000
//! ```
//!
//! Units: samples, seconds, bytes. An evaluation has no backward pass: -1. On the CPU `allocated`
//! is the process's resident set, `reserved` its address space, `total` the machine's memory. On a
//! GPU all describe the GPU's memory in use by all programs; a program keeps what it has taken.

use super::usage::Usage;
use crate::train::observer::{BatchReport, Evaluation, EvaluationKind};

/// The name of the file in a run's folder.
pub const TIMEMEM_FILE: &str = "timemem.csv";

/// The header line, with its newline.
pub(super) const HEADER: &str =
    "cum_batch,num_items,kind,fw_time,bw_time,allocated,allocated_max,reserved,reserved_max,total\n";

pub(super) fn training_row(report: &BatchReport, usage: &Usage) -> String {
    format!(
        "{},{},train,{},{},{}\n",
        report.cum_batch,
        report.samples,
        report.forward.as_secs_f64(),
        report.backward.as_secs_f64(),
        memory(usage)
    )
}

pub(super) fn evaluation_row(evaluation: &Evaluation, usage: &Usage) -> String {
    let kind = match evaluation.kind {
        EvaluationKind::Validation => "valid",
        EvaluationKind::Test => "test",
    };
    format!(
        "{},{},{kind},{},-1,{}\n",
        evaluation.cum_batch,
        evaluation.samples,
        evaluation.time.as_secs_f64(),
        memory(usage)
    )
}

fn memory(usage: &Usage) -> String {
    let columns = [
        usage.resident,
        usage.resident_peak,
        usage.reserved,
        usage.reserved_peak,
        usage.total,
    ];
    columns
        .map(|bytes| bytes.map_or("-1".to_string(), |bytes| bytes.to_string()))
        .join(",")
}
