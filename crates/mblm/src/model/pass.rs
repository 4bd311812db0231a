//! Settings, loss and observers of a training pass.

use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use mblm_ops::device::training_rows;
use serde::{Deserialize, Serialize};

use super::compute::Compute;
use crate::Result;

/// The loss of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Mean over the predictions that count, in nats per byte; 0 when there are none.
    pub mean: f64,
    /// The number of predictions that count: target not padding, weight not 0.
    pub count: usize,
    /// Whether some weight is neither 0 nor 1, so that the mean is over weighted losses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weighted: bool,
}

impl Loss {
    pub(super) fn of_sum(sum: f64, count: usize) -> Self {
        Self {
            mean: if count == 0 { 0.0 } else { sum / count as f64 },
            count,
            weighted: false,
        }
    }

    /// Records whether some of these weights is neither 0 nor 1.
    pub(crate) fn with_weights(self, weights: Option<&[f32]>) -> Self {
        let weighted = weights.is_some_and(|weights| weights.iter().any(|weight| *weight != 0.0 && *weight != 1.0));
        Self { weighted, ..self }
    }

    /// The unit of the mean: "bits", or "weighted bits" if weights distort the loss of the data.
    pub fn bits_in_words(&self) -> &'static str {
        match self.weighted {
            true => "weighted bits",
            false => "bits",
        }
    }

    /// The mean in bits per byte.
    pub fn bits_per_byte(&self) -> f64 {
        self.mean / std::f64::consts::LN_2
    }
}

/// The sum of losses (scalars) on a device.
pub(super) fn total(losses: &[Tensor]) -> Result<f64> {
    if losses.is_empty() {
        return Ok(0.0);
    }
    Ok(Tensor::stack(losses, 0)?.to_vec1::<f64>()?.into_iter().sum())
}

/// How much of a batch a training pass computes at once: less takes less memory and more time. Loss
/// and gradients are equal up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunking {
    /// Positions of the first stage; `None` for all. If a sample has more, the first stage's
    /// forward pass is computed twice, and memory holds the backward data of this many positions
    /// plus the states at the chunk borders. Stages with dropout are always computed at once.
    pub positions: Option<usize>,
    /// Rows of the other stages, unless `train_checkpoint_chunks` is set; `None` for as many as the
    /// device computes at full speed.
    pub rows: Option<usize>,
}

impl Chunking {
    /// Positions of a chunk, if fewer than the first stage's `positions`.
    pub(crate) fn chunk_of(&self, positions: usize) -> Option<usize> {
        let asked = self.positions?.max(1);
        (asked < positions).then_some(asked)
    }

    /// Whether a decoder's pass may use shards: not on a GPU, and not if rows are limited for
    /// memory.
    pub(crate) fn may_have_shards(&self, gpu: bool) -> bool {
        !gpu && self.rows.is_none()
    }

    /// Rows of a group on this device.
    pub(super) fn rows_on(&self, device: &Device, width: usize) -> usize {
        self.rows.unwrap_or_else(|| training_rows(!device.is_cpu(), width))
    }
}

/// The settings of a training pass.
#[derive(Clone, Debug)]
pub struct TrainingPass {
    /// Factor on all gradients, such as 1 / accumulated batches.
    pub scale: f64,
    /// Seed of the dropout masks; another one for every batch.
    pub seed: u64,
    /// How much to compute at once.
    pub chunking: Chunking,
    /// Numeric settings of the layers: exact by default, independent of the settings for inference.
    pub compute: Compute,
}

impl TrainingPass {
    /// The seed of a stage's dropout masks.
    pub(super) fn seed_of(&self, stage: usize) -> u64 {
        self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stage as u64
    }
}

impl Default for TrainingPass {
    fn default() -> Self {
        Self {
            scale: 1.0,
            seed: 0,
            chunking: Chunking::default(),
            compute: Compute::default(),
        }
    }
}

/// Observers of a training pass in chunks.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// Set to end the pass before its next chunk, with [`Error::Stopped`](crate::Error::Stopped).
    pub stop: Option<&'a AtomicBool>,
    /// Called before each chunk, on the computing thread, with the finished and the total parts. A
    /// chunk's first forward pass is one part; the rest of its work counts in proportion.
    pub progress: Option<&'a (dyn Fn(usize, usize) + Sync)>,
}
