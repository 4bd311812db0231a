//! Residual addition, token shift and RMS norm in one pass over the data.
//!
//! ```text
//! r_i = x_i + delta_i                                            the residual stream, (n, t, d)
//! s_i = [ first ⌈d/2⌉ channels of r_i | the others of r_{i-1} ]   token shift; r_{-1} = previous; s = r without it
//! y_i = s_i · f_i · g        f_i = 1 / max(‖s_i‖₂ d^-½, 1e-8)     Norm::Clamped
//!                            f_i = 1 / √(mean(s_i²) + 1e-5)       Norm::Eps
//! ds_i = f_i (g dy_i − c_i s_i),  c_i = f_i² mean(g dy_i s_i), 0 where the norm is clamped;   dg = Σ_i dy_i s_i f_i
//! ```
//!
//! RMS norm: arXiv 1910.07467. Token shift lets each layer look one position back at no cost.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mblm_ops::add_norm::{self, Norm};
//!
//! let x = Tensor::new(&[[[3f32, 4.0]]], &Device::Cpu)?; // (n, t, d) = (1, 1, 2)
//! let gain = Tensor::new(&[1f32, 1.0], &Device::Cpu)?;
//! let output = add_norm::forward(&x, Some(&x), &gain, Norm::Clamped, None)?;
//! assert_eq!(output.residual.to_vec3::<f32>()?, [[[6.0, 8.0]]]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// The scaling of a row to unit root mean square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// x / max(‖x‖₂ d^-½, 1e-8) · g, as in Transformer blocks.
    Clamped,
    /// x · rsqrt(mean(x²) + 1e-5) · g, as in Mamba blocks.
    Eps,
}

/// The results of [`forward`].
#[derive(Debug)]
pub struct Output {
    /// x + delta, (n, t, d).
    pub residual: Tensor,
    /// The norm of the shifted rows, (n, t, d).
    pub normed: Tensor,
    /// Input of [`backward`].
    pub saved: Saved,
}

/// The factor of each row, (n, t); absent if the reference implementation ran, which recomputes it.
#[derive(Clone, Debug)]
pub struct Saved {
    scale: Option<Tensor>,
}

/// The gradients that [`backward`] returns.
#[derive(Debug)]
pub struct Gradients {
    /// Gradient of `x`, equal to the gradient of `delta`, (n, t, d).
    pub d_x: Tensor,
    /// Gradient of `previous`, in its shape.
    pub d_previous: Option<Tensor>,
}

/// The gradients of the results.
struct Incoming<'a> {
    d_normed: &'a Tensor,
    d_residual: Option<&'a Tensor>,
    d_last: Option<&'a Tensor>,
}

/// Adds `delta` to `x` (n, t, d) and norms the result with `gain` (d).
///
/// With `previous`, the row before the first (n or 1, 1, d), the rows are shifted before the norm.
/// With batch 1, all sequences share `previous`.
pub fn forward(
    x: &Tensor,
    delta: Option<&Tensor>,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
) -> Result<Output> {
    check(x, gain, previous)?;
    if let Some(delta) = delta {
        check_gradient("delta", delta, x.dims())?;
    }
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, delta, gain, norm, previous),
        (true, DType::F64) => cpu::forward::<f64>(x, delta, gain, norm, previous),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(x, gain.elem_count()) => cuda::forward(x, delta, gain, norm, previous),
        _ => {
            let (residual, normed) = reference::forward(x, delta, gain, norm, previous)?;
            Ok(Output {
                residual,
                normed,
                saved: Saved { scale: None },
            })
        }
    }
}

/// Adds the gradient of `gain` to its buffer and returns the other gradients.
///
/// `residual` and `saved` are results of [`forward`]; `gain`, `norm` and `previous` its arguments.
/// `d_normed` (n, t, d) is the gradient of `normed`, `d_residual` (n, t, d) the gradient along the
/// residual stream, and `d_last` (n, 1, d) the gradient of the residual's last row, if that row is
/// handed on as a state.
pub fn backward(
    residual: &Tensor,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
    saved: &Saved,
    d_normed: &Tensor,
    d_residual: Option<&Tensor>,
    d_last: Option<&Tensor>,
    d_gain: &mut GradBuffer,
) -> Result<Gradients> {
    let (n, t, d) = check(residual, gain, previous)?;
    check_gradient("the gradient of normed", d_normed, &[n, t, d])?;
    if let Some(d_residual) = d_residual {
        check_gradient("the gradient of residual", d_residual, &[n, t, d])?;
    }
    if let Some(d_last) = d_last {
        check_gradient("the gradient of the last row", d_last, &[n, 1, d])?;
    }
    let incoming = Incoming {
        d_normed,
        d_residual,
        d_last,
    };
    match (residual.dtype(), &saved.scale) {
        #[cfg(feature = "cuda")]
        (_, Some(scale)) if residual.device().is_cuda() => {
            cuda::backward(residual, gain, norm, previous, scale, &incoming, d_gain)
        }
        (DType::F32, Some(scale)) => cpu::backward::<f32>(residual, gain, norm, previous, scale, &incoming, d_gain),
        (DType::F64, Some(scale)) => cpu::backward::<f64>(residual, gain, norm, previous, scale, &incoming, d_gain),
        _ => {
            let inputs: Vec<&Tensor> = [residual, gain].into_iter().chain(previous).collect();
            let mut gradients = fallback::gradients(&inputs, &[Some(d_normed), d_residual, d_last], |inputs| {
                let (residual, normed) = reference::forward(&inputs[0], None, &inputs[1], norm, inputs.get(2))?;
                let last = residual.narrow(1, t - 1, 1)?;
                Ok(vec![normed, residual, last])
            })?;
            let d_previous = previous.and_then(|_| gradients.pop());
            d_gain.add(&gradients[1])?;
            Ok(Gradients {
                d_x: gradients[0].clone(),
                d_previous,
            })
        }
    }
}

/// Channels of a row that are not shifted: the channels from `keep` on come from the row before.
fn keep(d: usize, shifts: bool) -> usize {
    if shifts { d.div_ceil(2) } else { d }
}

fn check(x: &Tensor, gain: &Tensor, previous: Option<&Tensor>) -> Result<(usize, usize, usize)> {
    let (n, t, d) = x.dims3()?;
    if t == 0 || d == 0 {
        candle_core::bail!(
            "add_norm: expected at least one position and one channel, found (n, t, d) = ({n}, {t}, {d})"
        );
    }
    if gain.dims() != [d] {
        candle_core::bail!(
            "add_norm: expected a gain of [{d}] for rows of {d}, found {:?}",
            gain.dims()
        );
    }
    match previous.map(Tensor::dims) {
        Some(dims) if dims != [n, 1, d] && dims != [1, 1, d] => {
            candle_core::bail!("add_norm: expected a previous row of [{n}, 1, {d}] or [1, 1, {d}], found {dims:?}")
        }
        _ => Ok((n, t, d)),
    }
}

fn check_gradient(what: &str, found: &Tensor, expected: &[usize]) -> Result<()> {
    if found.dims() != expected {
        candle_core::bail!("add_norm: expected {what} of {expected:?}, found {:?}", found.dims());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
