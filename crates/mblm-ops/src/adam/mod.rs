//! Adam in one pass over each parameter, with decoupled weight decay and the scale of gradient
//! clipping.
//!
//! ```text
//! g = gradient_scale · gradient
//! m = β₁ m + (1 − β₁) g        v = β₂ v + (1 − β₂) g²
//! value = (1 − lr · weight_decay) value − lr · m̂ / (√v̂ + eps),   m̂ = m / (1 − β₁^step),   v̂ = v / (1 − β₂^step)
//! ```
//!
//! Sources: arXiv 1412.6980, and arXiv 1711.05101 for the decay; equals torch.optim.Adam (AdamW).
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::GradBuffer;
//! use mblm_ops::adam::{self, Adam, Parameter};
//!
//! let value = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
//! let (m, v) = (value.zeros_like()?, value.zeros_like()?);
//! let mut gradient = GradBuffer::zeros_like(&value)?;
//! gradient.add(&Tensor::new(&[3f32, -4.0], &Device::Cpu)?)?;
//! assert_eq!(adam::global_norm(&adam::sums(&[&gradient])?), 5.0);
//!
//! let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
//! let parameter = Parameter { value: &value, gradient: &gradient, m: &m, v: &v };
//! adam::step(&adam, 0.1, 1, 1.0, &mut [parameter])?;
//! let found: Vec<f32> = value.to_vec1()?;
//! assert!((found[0] + 0.1).abs() < 1e-5 && (found[1] - 0.1).abs() < 1e-5); // the first step is lr against the sign
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

use crate::GradBuffer;
use crate::cpu::par_map;

/// The constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the mean of gradients, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the mean square, ≥ 0.
    pub eps: f64,
    /// Decoupled weight decay, ≥ 0; 0 is plain Adam.
    pub weight_decay: f64,
}

/// One tensor to train. The shapes are the same; `value`, `m` and `v` are contiguous and change in
/// place.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a> {
    /// The weights.
    pub value: &'a Tensor,
    /// The gradient; a buffer that was never added to counts as zeros.
    pub gradient: &'a GradBuffer,
    /// The running mean of gradients, zeros at first.
    pub m: &'a Tensor,
    /// The running mean of squared gradients, zeros at first.
    pub v: &'a Tensor,
}

/// Sums over one gradient, accumulated in `f64`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ g.
    pub plain: f64,
    /// Σ g².
    pub squares: f64,
}

/// The sums over each gradient; waits only once for all buffers on a CUDA device.
pub fn sums(gradients: &[&GradBuffer]) -> Result<Vec<Sums>> {
    #[cfg(feature = "cuda")]
    if gradients.iter().all(|gradient| cuda::takes(gradient.tensor())) {
        return cuda::sums(gradients);
    }
    let each = |gradient: &GradBuffer| {
        let tensor = gradient.tensor();
        match (tensor.device().is_cpu(), tensor.dtype()) {
            (true, DType::F32) => cpu::sums::<f32>(tensor),
            (true, DType::F64) => cpu::sums::<f64>(tensor),
            _ => reference::sums(tensor),
        }
    };
    // on the CPU many gradients are too small to be split among threads; another device's queue
    // runs them one by one
    let on_cpu = gradients.iter().all(|gradient| gradient.tensor().device().is_cpu());
    par_map(gradients.to_vec(), on_cpu, |_, gradient| each(gradient))
        .into_iter()
        .collect()
}

/// The L2 norm of all gradients together.
pub fn global_norm(sums: &[Sums]) -> f64 {
    sums.iter().map(|sums| sums.squares).sum::<f64>().sqrt()
}

/// Moves every parameter by one step.
///
/// `step` counts from 1; `gradient_scale` multiplies the gradients (clipping).
///
/// # Errors
/// Constants out of range, shapes that differ, tensors that are not contiguous, tensors of one
/// parameter that share memory: all are found before anything changes.
pub fn step(
    adam: &Adam,
    learning_rate: f64,
    step: u64,
    gradient_scale: f64,
    parameters: &mut [Parameter<'_>],
) -> Result<()> {
    let factors = Factors::new(adam, learning_rate, step, gradient_scale)?;
    for (index, parameter) in parameters.iter().enumerate() {
        check(index, parameter)?;
    }
    let step = |parameter: &Parameter<'_>| {
        let Parameter { value, gradient, m, v } = parameter;
        #[cfg(feature = "cuda")]
        if [value, m, v, gradient.tensor()].into_iter().all(cuda::takes) {
            return cuda::step(&factors, parameter);
        }
        let dtype = gradient.tensor().dtype();
        let fused = value.device().is_cpu() && [value, m, v].iter().all(|tensor| tensor.dtype() == dtype);
        match dtype {
            DType::F32 if fused => cpu::step::<f32>(&factors, parameter),
            DType::F64 if fused => cpu::step::<f64>(&factors, parameter),
            _ => reference::step(&factors, parameter),
        }
    };
    let on_cpu = parameters.iter().all(|parameter| parameter.value.device().is_cpu());
    par_map(parameters.iter().collect(), on_cpu, |_, parameter| step(parameter))
        .into_iter()
        .collect()
}

/// The factors of one step.
struct Factors {
    beta1: f64,
    beta2: f64,
    eps: f64,
    gradient_scale: f64,
    keep: f64, // multiplies the value: 1 − lr · weight_decay
    rate: f64, // lr / (1 − β₁^step)
    root: f64, // 1 / √(1 − β₂^step)
}

impl Factors {
    fn new(adam: &Adam, learning_rate: f64, step: u64, gradient_scale: f64) -> Result<Self> {
        let Adam {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = *adam;
        if step == 0 {
            candle_core::bail!("adam: expected a step from 1 on, found 0; count the step before taking it");
        }
        for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&beta) {
                candle_core::bail!("adam: expected {name} in [0, 1), found {beta}");
            }
        }
        for (name, number) in [
            ("eps", eps),
            ("weight_decay", weight_decay),
            ("learning_rate", learning_rate),
        ] {
            if !(number >= 0.0 && number.is_finite()) {
                candle_core::bail!("adam: expected a finite {name} of at least 0, found {number}");
            }
        }
        Ok(Self {
            beta1,
            beta2,
            eps,
            gradient_scale,
            keep: 1.0 - learning_rate * weight_decay,
            rate: learning_rate / (1.0 - beta1.powf(step as f64)),
            root: 1.0 / (1.0 - beta2.powf(step as f64)).sqrt(),
        })
    }
}

fn check(index: usize, parameter: &Parameter<'_>) -> Result<()> {
    let Parameter { value, gradient, m, v } = parameter;
    let tensors = [("value", *value), ("m", *m), ("v", *v), ("gradient", gradient.tensor())];
    for (name, tensor) in tensors {
        if tensor.dims() != value.dims() {
            candle_core::bail!(
                "adam: parameter {index}: expected {name} of the value's shape {:?}, found {:?}",
                value.dims(),
                tensor.dims()
            );
        }
        if !tensor.is_contiguous() {
            candle_core::bail!(
                "adam: parameter {index}: expected {name} to be contiguous; make it so once, at the start"
            );
        }
    }
    for (i, (first, a)) in tensors.iter().enumerate() {
        for (second, b) in &tensors[i + 1..] {
            if memory(a) == memory(b) {
                candle_core::bail!(
                    "adam: parameter {index}: {first} and {second} share their memory; copy one of them"
                );
            }
        }
    }
    Ok(())
}

/// The identity of a tensor's memory.
fn memory(tensor: &Tensor) -> *const candle_core::Storage {
    std::ptr::from_ref(&*tensor.storage_and_layout().0)
}

#[cfg(test)]
mod tests;
