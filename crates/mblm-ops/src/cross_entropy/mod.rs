//! Weighted cross-entropy of logits, in nats, with its gradient in the same pass.
//!
//! ```text
//! loss_i = ln Σ_j e^{x_ij} − x_i,target_i                 x (r, V), targets (r) u32
//! total = Σ_i w_i loss_i                                   w (r) f32, accumulated in f64
//! dx_ij = scale · w_i · (softmax(x_i)_j − [j = target_i])
//! ```
//!
//! A weight of 0 ignores its row, whatever its target and logits. The caller normalizes: `scale` is
//! for instance 1 / (rows that count), a number that need not come from these rows alone.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::cross_entropy;
//!
//! let logits = Tensor::zeros((1, 256), DType::F32, &Device::Cpu)?; // all ids alike
//! let targets = Tensor::new(&[65u32], &Device::Cpu)?;
//! let losses: Vec<f32> = cross_entropy::losses(&logits, &targets)?.to_vec1()?;
//! assert!((losses[0] - 256f32.ln()).abs() < 1e-5);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{D, DType, Result, Tensor};

use crate::precision::widened;
use crate::{fallback, indices};

/// The unweighted loss of each row in nats, in the type of `logits` (r, V); `targets` (r) u32.
///
/// # Errors
/// A target of V or more. On a CUDA device, where a check would wait for the device, its loss is
/// NaN.
pub fn losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (_, vocabulary) = check(logits, targets)?;
    indices::check(TARGETS, targets, vocabulary)?;
    match (logits.device().is_cpu(), logits.dtype()) {
        (true, DType::F32) => cpu::losses::<f32>(logits, targets),
        (true, DType::F64) => cpu::losses::<f64>(logits, targets),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(logits) => cuda::losses(logits, targets),
        _ => reference::losses(&widened(logits)?, targets)?.to_dtype(logits.dtype()),
    }
}

/// Returns Σ weight · loss in nats, and `scale` times its gradient with respect to `logits`.
///
/// The loss is a scalar `f64` on the device of `logits`. `logits` (r, V), `targets` (r) u32,
/// `weights` (r) f32.
///
/// # Errors
/// A target of V or more, unless its weight is 0. On a CUDA device, where a check would wait for
/// the device, the loss is NaN.
pub fn loss_and_gradient(logits: &Tensor, targets: &Tensor, weights: &Tensor, scale: f64) -> Result<(Tensor, Tensor)> {
    let (rows, vocabulary) = check(logits, targets)?;
    if weights.dims() != [rows] || weights.dtype() != DType::F32 {
        candle_core::bail!(
            "cross_entropy: expected weights of [{rows}] and type f32, found {:?} and {:?}",
            weights.dims(),
            weights.dtype()
        );
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(logits) {
        return cuda::loss_and_gradient(logits, targets, weights, scale);
    }
    let (host_targets, host_weights) = (targets.to_vec1::<u32>()?, weights.to_vec1::<f32>()?);
    for (row, (target, weight)) in host_targets.iter().zip(&host_weights).enumerate() {
        if *weight != 0.0 && *target as usize >= vocabulary {
            return Err(indices::out_of_range(TARGETS, *target, &[row], vocabulary));
        }
    }
    let (total, d_logits) = match (logits.device().is_cpu(), logits.dtype()) {
        (true, DType::F32) => cpu::loss_and_gradient::<f32>(logits, &host_targets, &host_weights, scale)?,
        (true, DType::F64) => cpu::loss_and_gradient::<f64>(logits, &host_targets, &host_weights, scale)?,
        _ => by_autograd(logits, targets, weights, scale)?,
    };
    Ok((Tensor::new(total, logits.device())?, d_logits))
}

const TARGETS: &str = "cross_entropy, targets";

fn by_autograd(logits: &Tensor, targets: &Tensor, weights: &Tensor, scale: f64) -> Result<(f64, Tensor)> {
    let wide = widened(logits)?;
    let counts = weights.ne(0f32)?;
    let targets = counts.where_cond(targets, &targets.zeros_like()?)?;
    let row_counts = counts.unsqueeze(D::Minus1)?.broadcast_as(wide.shape())?; // (r, V)
    let wide = row_counts.where_cond(&wide, &wide.zeros_like()?)?;
    let weights = weights.to_dtype(wide.dtype())?;
    let losses = (reference::losses(&wide, &targets)? * &weights)?;
    let total: f64 = losses
        .to_dtype(DType::F32)?
        .to_vec1::<f32>()?
        .into_iter()
        .map(f64::from)
        .sum();
    let gradients = fallback::gradients(&[&wide], &[Some(&(weights * scale)?)], |inputs| {
        Ok(vec![reference::losses(&inputs[0], &targets)?])
    })?;
    Ok((total, gradients[0].to_dtype(logits.dtype())?))
}

fn check(logits: &Tensor, targets: &Tensor) -> Result<(usize, usize)> {
    let (rows, vocabulary) = logits.dims2()?;
    if vocabulary == 0 {
        candle_core::bail!("cross_entropy: expected logits of at least one class, found [{rows}, 0]");
    }
    if targets.dims() != [rows] || targets.dtype() != DType::U32 {
        candle_core::bail!(
            "cross_entropy: expected targets of [{rows}] and type u32 for logits of [{rows}, {vocabulary}], found {:?} and {:?}",
            targets.dims(),
            targets.dtype()
        );
    }
    Ok((rows, vocabulary))
}

#[cfg(test)]
mod tests;
