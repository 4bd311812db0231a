//! Batches of samples, and the position of a batch in a training.

use serde::{Deserialize, Serialize};

use super::dataset::Sample;
use crate::{Error, Result};

/// A position in training: `batch` batches of epoch `epoch` are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: usize,
    /// The batch within the epoch, from 0.
    pub batch: usize,
}

/// Samples of one length, stacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The input ids, `(rows, len)`.
    pub ids: Vec<u32>,
    /// The number of samples.
    pub rows: usize,
    /// Ids per sample.
    pub len: usize,
    /// The weights of the loss, `(rows, len)`.
    pub loss_weights: Option<Vec<f32>>,
    /// Masked-byte training: the original ids, `(rows, len)`.
    pub labels: Option<Vec<u32>>,
    /// Masked-byte training: the masked positions, `(rows, len)`.
    pub masked: Option<Vec<bool>>,
    /// The index of each sample within the epoch, `(rows)`; it locates the samples of an odd loss.
    pub samples: Vec<usize>,
    /// The position of this batch.
    pub position: Position,
    /// The position of the next batch, where a run resumes after this one.
    pub next: Position,
}

impl Batch {
    /// Stacks samples; fails if their shapes differ.
    pub(super) fn stack(samples: &[Sample], indices: Vec<usize>, position: Position, next: Position) -> Result<Self> {
        let len = samples.first().map_or(0, |sample| sample.ids.len());
        let of = |message| Error::input(format!("epoch {}, {message}", position.epoch));
        Ok(Self {
            ids: stack("ids", samples, &indices, len, |sample| Some(&sample.ids))
                .map_err(of)?
                .unwrap_or_default(),
            rows: samples.len(),
            len,
            loss_weights: stack("loss_weights", samples, &indices, len, |s| s.loss_weights.as_ref()).map_err(of)?,
            labels: stack("labels", samples, &indices, len, |sample| sample.labels.as_ref()).map_err(of)?,
            masked: stack("masked", samples, &indices, len, |sample| sample.masked.as_ref()).map_err(of)?,
            samples: indices,
            position,
            next,
        })
    }
}

/// Stacks one field of all samples, `(rows, len)`; `None` if no sample has it.
fn stack<T: Copy>(
    name: &str,
    samples: &[Sample],
    indices: &[usize],
    len: usize,
    field: impl Fn(&Sample) -> Option<&Vec<T>>,
) -> Result<Option<Vec<T>>, String> {
    let present = samples.first().is_some_and(|sample| field(sample).is_some());
    let mut stacked = Vec::with_capacity(if present { samples.len() * len } else { 0 });
    for (sample, index) in samples.iter().zip(indices) {
        match field(sample) {
            Some(values) if present && values.len() == len => stacked.extend_from_slice(values),
            Some(values) if present => {
                let found = values.len();
                return Err(format!(
                    "sample {index}: expected {len} elements in {name}, found {found}"
                ));
            }
            None if !present => {}
            _ => {
                return Err(format!(
                    "sample {index}: expected {name} in all samples of a batch or in none"
                ));
            }
        }
    }
    Ok(present.then_some(stacked))
}
