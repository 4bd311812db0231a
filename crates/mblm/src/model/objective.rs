//! The loss that a training pass minimizes: a function of the logits, called group by group.
//!
//! An [`Objective`] gets the logits (m, V) of m consecutive rows and the byte that each row
//! predicts, and returns their summed loss and its gradient. The hierarchy calls it depth first, so
//! only one group's logits are in memory. [`CrossEntropy`] is the default. If an objective needs
//! all logits at once, use [`Mblm::forward_train`](super::Mblm::forward_train).

use std::ops::Range;

use candle_core::Tensor;
use mblm_ops::cross_entropy;

use crate::Result;

/// A loss of logits, summed over rows.
///
/// ```
/// use mblm::candle::DType;
/// use mblm::model::{LogitRows, Objective, RowGradients};
///
/// /// Half the sum of all squared logits, whatever the bytes: its gradient is the logits.
/// struct Small;
///
/// impl Objective for Small {
///     fn rows(&self, rows: &LogitRows<'_>) -> mblm::Result<RowGradients> {
///         let weights = rows.weights.to_dtype(rows.logits.dtype())?.unsqueeze(1)?; // (m, 1)
///         let weighted = rows.logits.broadcast_mul(&weights)?;
///         let loss = ((weighted.clone() * rows.logits)?.sum_all()?.to_dtype(DType::F64)? * 0.5)?;
///         Ok(RowGradients { loss, d_logits: (weighted * rows.scale)? })
///     }
/// }
/// # let _ = Small;
/// ```
pub trait Objective: Sync {
    /// Returns the loss of some rows and its gradient. May be called from several threads at once.
    ///
    /// # Errors
    /// Those of tensor operations.
    fn rows(&self, rows: &LogitRows<'_>) -> Result<RowGradients>;
}

/// The logits of consecutive rows, and their targets.
pub struct LogitRows<'a> {
    /// (m, V), in the type of the activations.
    pub logits: &'a Tensor,
    /// The predicted ids (m), `u32`, on the model's device.
    pub targets: &'a Tensor,
    /// The weight of each prediction (m), `f32`, on the model's device. Loss and gradient of weight
    /// 0 (padding, excluded ids) must be 0.
    pub weights: &'a Tensor,
    /// Factor on the gradient of the summed loss: the pass's scale / predictions that count.
    pub scale: f64,
    pub(super) bytes: PredictedBytes,
}

/// A predicted byte of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictedByte {
    /// The sample.
    pub sample: usize,
    /// The position in the sample; past its end for a row of padding.
    pub position: usize,
}

/// The bytes that rows predict.
#[derive(Clone, Debug)]
pub(super) enum PredictedBytes {
    /// Rows of the local stage: row j of a sample (`padded` rows) predicts byte j + 1.
    Rows {
        /// Numbers of the rows, over all samples.
        rows: Range<usize>,
        /// Rows of a sample.
        padded: usize,
    },
    /// The first byte of each of these samples.
    First(Range<usize>),
}

impl LogitRows<'_> {
    /// The byte that each row predicts, in row order.
    pub fn bytes(&self) -> Vec<PredictedByte> {
        match &self.bytes {
            PredictedBytes::Rows { rows, padded } => rows
                .clone()
                .map(|row| PredictedByte {
                    sample: row / padded,
                    position: row % padded + 1,
                })
                .collect(),
            PredictedBytes::First(samples) => samples
                .clone()
                .map(|sample| PredictedByte { sample, position: 0 })
                .collect(),
        }
    }
}

/// The result of an [`Objective`].
pub struct RowGradients {
    /// The weighted loss, summed over the rows: a scalar, `f64`.
    pub loss: Tensor,
    /// The gradient of `loss` (m, V) × [`LogitRows::scale`].
    pub d_logits: Tensor,
}

/// The cross-entropy of the predicted ids, in nats: `w · −ln softmax(logits)[id]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy;

impl Objective for CrossEntropy {
    fn rows(&self, rows: &LogitRows<'_>) -> Result<RowGradients> {
        let (loss, d_logits) = cross_entropy::loss_and_gradient(rows.logits, rows.targets, rows.weights, rows.scale)?;
        Ok(RowGradients { loss, d_logits })
    }
}
