//! The norm of a step's gradient, and the clipping factor.
//!
//! ```text
//! norm = √(Σ g²) over all parameters        scale = min(1, max_grad_norm / (norm + 1e-6))
//! ```

use mblm_ops::GradBuffer;
use mblm_ops::adam::{self, Sums};

use crate::Result;
use crate::model::Gradients;

/// The global L2 norm of the gradient of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientNorm {
    /// Before clipping.
    pub before: f64,
    /// After clipping.
    pub after: f64,
    /// Mean of the gradients' means before clipping, by parameter: the Python package's `avg_grad`.
    pub mean: f64,
}

/// The clipping of a gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clipping {
    pub(super) norm: GradientNorm,
    /// The factor of the gradient; `None` if its norm is not finite.
    pub(super) scale: Option<f64>,
}

impl Clipping {
    /// Clips the norm to at most `max_grad_norm`, if given.
    pub(super) fn of(gradients: &Gradients, max_grad_norm: Option<f64>) -> Result<Self> {
        let buffers: Vec<_> = gradients.iter().collect();
        let sums = adam::sums(&buffers)?;
        let before = adam::global_norm(&sums);
        if !before.is_finite() {
            let norm = GradientNorm {
                before,
                after: before,
                mean: f64::NAN,
            };
            return Ok(Self { norm, scale: None });
        }
        // as in the published recipe; the small constant avoids a division by zero
        let scale = max_grad_norm.map_or(1.0, |max| (max / (before + 1e-6)).min(1.0));
        let norm = GradientNorm {
            before,
            after: before * scale,
            mean: mean_of_means(&buffers, &sums),
        };
        Ok(Self {
            norm,
            scale: Some(scale),
        })
    }
}

/// The mean over all buffers of the mean of their elements.
fn mean_of_means(buffers: &[&GradBuffer], sums: &[Sums]) -> f64 {
    let means = buffers
        .iter()
        .zip(sums)
        .map(|(buffer, sums)| sums.plain / buffer.tensor().elem_count() as f64);
    means.sum::<f64>() / buffers.len().max(1) as f64
}
