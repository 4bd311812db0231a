//! What a training pass makes small: a function of the logits, called group by group.
//!
//! An [`Objective`] sees the logits (m, V) of m consecutive rows, knows which byte each of them predicts, and gives their summed loss
//! and its gradient. The hierarchy does the rest, depth first, so that no more logits than those of one group are in memory at once.
//! [`CrossEntropy`] is the default. Where an objective needs all logits at once, [`Mblm::forward_train`](super::Mblm::forward_train)
//! gives them.

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
/// /// Half the sum of all squared logits, whatever the bytes are: its gradient is the logits themselves.
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
    /// The loss of some rows and its gradient. May be called from several threads at once, for different rows.
    ///
    /// # Errors
    /// Those of tensor operations.
    fn rows(&self, rows: &LogitRows<'_>) -> Result<RowGradients>;
}

/// The logits of consecutive rows, and what they predict.
pub struct LogitRows<'a> {
    /// (m, V), in the type of the activations.
    pub logits: &'a Tensor,
    /// The predicted ids (m), `u32`, on the model's device.
    pub targets: &'a Tensor,
    /// The weight of each prediction (m), `f32`, on the model's device: 0 for padding and for what the mask leaves out, whose loss
    /// and gradient have to be 0.
    pub weights: &'a Tensor,
    /// The factor from the gradient of the summed loss to the one that is asked for: the pass's scale / predictions that count.
    pub scale: f64,
    pub(super) bytes: PredictedBytes,
}

/// A predicted byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictedByte {
    /// Its sample.
    pub sample: usize,
    /// Its position in the sample. Behind the sample's last byte for a row of padding.
    pub position: usize,
}

/// Which bytes rows predict.
#[derive(Clone, Debug)]
pub(super) enum PredictedBytes {
    /// Rows of the local stage with samples of `padded` rows each: row j of a sample predicts byte j + 1.
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
    /// The byte that each row predicts, in the order of the rows.
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

/// What an [`Objective`] gives.
pub struct RowGradients {
    /// The weighted loss, summed over the rows: a scalar, `f64`.
    pub loss: Tensor,
    /// Its gradient (m, V) × [`LogitRows::scale`].
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
