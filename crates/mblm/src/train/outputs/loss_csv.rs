//! `loss.csv`: the losses of a run, one row per logged training batch and per evaluation.
//!
//! ```text
//! gpu_rank,timestamp,elements_seen,kind,epoch,batch,cum_batch,loss,lr,avg_grad,avg_grad_clipped
//! 0,2026-11-25 07:31:02.123456,8192,train,0,0,0,5.5452,0.0001,0.0000031,0.0000012
//! 0,2026-11-25 07:31:09.654321,8192,valid,0,0,0,5.3311,-1,-1,-1
//! 0,2026-11-25 07:59:59.000001,-1,test,-1,-1,-1,2.0794,-1,-1,-1
//! ```
//!
//! The columns are those of the Python package, whose files can be read too. Losses are in nats. A
//! column that does not apply holds -1, and so do the gradient columns without a step.

use std::fs;
use std::path::Path;

use super::clock::{self, Moment};
use crate::train::observer::{BatchReport, Evaluation, EvaluationKind};
use crate::{Error, Result};

/// The name of the file in a run's folder.
pub use crate::checkpoint::LOSS_FILE;

/// The header line, with its newline.
pub(super) const HEADER: &str =
    "gpu_rank,timestamp,elements_seen,kind,epoch,batch,cum_batch,loss,lr,avg_grad,avg_grad_clipped\n";

pub(super) fn training_row(rank: usize, moment: &Moment, report: &BatchReport) -> String {
    let (mean, clipped) = report.norm.map_or((-1.0, -1.0), |norm| {
        let scale = if norm.before > 0.0 {
            norm.after / norm.before
        } else {
            1.0
        };
        (norm.mean, norm.mean * scale)
    });
    format!(
        "{rank},{},{},train,{},{},{},{},{},{mean},{clipped}\n",
        moment.timestamp(),
        report.elements_seen,
        report.epoch,
        report.batch,
        report.cum_batch,
        report.loss.mean,
        report.lr,
    )
}

pub(super) fn evaluation_row(rank: usize, moment: &Moment, evaluation: &Evaluation) -> String {
    let (time, loss) = (moment.timestamp(), evaluation.loss.mean);
    match evaluation.kind {
        EvaluationKind::Validation => format!(
            "{rank},{time},{},valid,{},{},{},{loss},-1,-1,-1\n",
            evaluation.elements_seen, evaluation.epoch, evaluation.batch, evaluation.cum_batch
        ),
        EvaluationKind::Test => format!("{rank},{time},-1,test,-1,-1,-1,{loss},-1,-1,-1\n"),
    }
}

/// The data of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// A training batch.
    Training,
    /// The validation data.
    Validation,
    /// The test data.
    Test,
}

/// A row of `loss.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct LossRow {
    /// The worker that wrote it.
    pub rank: u64,
    /// Seconds since 1970 in the writer's unknown time zone: only differences are meaningful.
    pub time: f64,
    /// Elements (samples or bytes, as configured) seen at this row, if recorded.
    pub elements_seen: Option<u64>,
    /// The data.
    pub kind: LossKind,
    /// Batch of the run, from 0, if recorded.
    pub cum_batch: Option<u64>,
    /// Mean loss in nats; may be infinite or NaN.
    pub loss: f64,
    /// The learning rate, if recorded.
    pub lr: Option<f64>,
}

/// The content of a `loss.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct LossLog {
    /// The rows, in file order.
    pub rows: Vec<LossRow>,
    /// Whether an unfinished last line was ignored: being written, or left by a killed writer.
    pub torn: bool,
}

/// Reads a `loss.csv` of this program or of the Python package.
///
/// # Errors
/// The file cannot be read, has another header, or a damaged line, which the error numbers.
pub fn read_losses(path: &Path) -> Result<LossLog> {
    let bytes = fs::read(path).map_err(|error| Error::file(path, error))?;
    let text = String::from_utf8_lossy(&bytes);
    let (whole, rest) = text.split_at(text.rfind('\n').map_or(0, |end| end + 1));
    let header = HEADER.trim_end();
    let mut lines = whole.lines().enumerate();
    if let Some((_, first)) = lines
        .next()
        .filter(|(_, first)| first.trim_start_matches('\u{feff}') != header)
    {
        return Err(Error::file(
            path,
            format!("line 1: expected the columns {header:?}, found {first:?}; is this a loss.csv?"),
        ));
    }
    let rows = lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| row(line).map_err(|message| Error::file(path, format!("line {}: {message}", index + 1))))
        .collect::<Result<_>>()?;
    Ok(LossLog {
        rows,
        torn: !rest.is_empty(),
    })
}

/// Parses one line, without its newline.
fn row(line: &str) -> Result<LossRow, String> {
    let columns: Vec<&str> = line.split(',').collect();
    let [
        rank,
        time,
        elements,
        kind,
        epoch,
        batch,
        cum_batch,
        loss,
        lr,
        mean,
        clipped,
    ] = columns[..]
    else {
        let shown: String = line.chars().take(80).collect();
        return Err(format!("expected 11 columns, found {} in {shown:?}", columns.len()));
    };
    let number = |name: &str, text: &str| {
        let parsed = text.parse::<f64>();
        parsed.map_err(|_| format!("{name}: expected a number, found {text:?}"))
    };
    let count = |name: &str, text: &str| match number(name, text)? {
        -1.0 => Ok(None),
        value if value >= 0.0 && value.fract() == 0.0 => Ok(Some(value as u64)),
        _ => Err(format!("{name}: expected a whole number, or -1, found {text:?}")),
    };
    // parsed only to detect damaged lines
    count("epoch", epoch)?;
    count("batch", batch)?;
    number("avg_grad", mean)?;
    number("avg_grad_clipped", clipped)?;
    Ok(LossRow {
        rank: count("gpu_rank", rank)?.unwrap_or(0),
        time: clock::seconds(time)
            .ok_or_else(|| format!("timestamp: expected a time such as 2026-11-25 07:31:02.123456, found {time:?}"))?,
        elements_seen: count("elements_seen", elements)?,
        kind: match kind {
            "train" => LossKind::Training,
            "valid" => LossKind::Validation,
            "test" => LossKind::Test,
            _ => return Err(format!("kind: expected train, valid or test, found {kind:?}")),
        },
        cum_batch: count("cum_batch", cum_batch)?,
        loss: number("loss", loss)?,
        lr: Some(number("lr", lr)?).filter(|lr| *lr != -1.0),
    })
}
