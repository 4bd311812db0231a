//! Mamba-1's selective scan and its gate.
//!
//! A linear recurrence whose decay differs in every channel and state entry.
//!
//! ```text
//! Δ = softplus(delta)      A = -exp(a_log)
//! h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t ⊙ u_t) ⊗ B_t                  (d_i, N)
//! y_t = (h_t C_t + D ⊙ u_t) ⊙ silu(z_t)
//! u, delta, z, y (n, t, d_i), a_log (d_i, N), b, c (n, t, N), d (d_i), h (n, d_i, N)
//! ```
//!
//! Source: Gu and Dao, arXiv 2312.00752, algorithm 2 with the simplified discretization Δ B. The
//! backward pass keeps the states at the borders of segments of positions and recomputes the states
//! between.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::selective_scan::{self, Inputs};
//!
//! let (rows, states) = ((1, 5, 3), (1, 5, 2)); // n = 1, t = 5, d = 3, N = 2
//! let ones = |dims: (usize, usize, usize)| Tensor::ones(dims, DType::F32, &Device::Cpu);
//! let (u, b) = (ones(rows)?, ones(states)?);
//! let a_log = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
//! let d = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
//! let inputs = Inputs { u: &u, delta: &u, a_log: &a_log, b: &b, c: &b, d: &d, z: &u, initial: None };
//! let output = selective_scan::forward(&inputs)?;
//! assert_eq!((output.y.dims(), output.last.dims()), (&[1, 5, 3][..], &[1, 3, 2][..]));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod gradient;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// Largest N, the state entries of a channel, for which CUDA devices have kernels.
pub const MAX_STATES_ON_CUDA: usize = 64;

/// The inputs of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (n, t, d_i).
    pub u: &'a Tensor,
    /// (n, t, d_i), time steps before the softplus, bias included.
    pub delta: &'a Tensor,
    /// (d_i, N).
    pub a_log: &'a Tensor,
    /// (n, t, N).
    pub b: &'a Tensor,
    /// (n, t, N).
    pub c: &'a Tensor,
    /// (d_i), the weight of the skip connection.
    pub d: &'a Tensor,
    /// (n, t, d_i), the gate.
    pub z: &'a Tensor,
    /// The state before the first position, (n or 1, d_i, N).
    ///
    /// Batch 1 is shared by all sequences; `None` means zeros.
    pub initial: Option<&'a Tensor>,
}

/// The results of [`forward`].
#[derive(Debug)]
pub struct Output {
    /// (n, t, d_i).
    pub y: Tensor,
    /// The state after the last position, (n, d_i, N).
    pub last: Tensor,
    /// Input of [`backward`].
    pub saved: Saved,
}

/// The values that [`backward`] needs besides the inputs: states at the borders of segments.
///
/// One tensor per task; on CUDA devices one tensor for all.
#[derive(Debug)]
pub struct Saved {
    borders: Vec<Tensor>,
}

/// The gradients of the inputs that are not parameters, in the inputs' shapes.
#[derive(Debug)]
pub struct Gradients {
    /// Gradient of `u`.
    pub d_u: Tensor,
    /// Gradient of `delta`.
    pub d_delta: Tensor,
    /// Gradient of `b`.
    pub d_b: Tensor,
    /// Gradient of `c`.
    pub d_c: Tensor,
    /// Gradient of `z`.
    pub d_z: Tensor,
    /// Gradient of `initial`, if given; summed over the sequences if they share it.
    pub d_initial: Option<Tensor>,
}

/// The scan of `inputs` from the initial state.
///
/// # Errors
/// Shapes that do not match.
pub fn forward(inputs: &Inputs) -> Result<Output> {
    check(inputs)?;
    match (inputs.u.device().is_cpu(), inputs.u.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(inputs),
        (true, DType::F64) => cpu::forward::<f64>(inputs),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(inputs) => cuda::forward(inputs),
        _ => {
            let (y, last) = reference::forward(inputs)?;
            let saved = Saved { borders: Vec::new() };
            Ok(Output { y, last, saved })
        }
    }
}

/// Adds the gradients of `a_log` and `d` to their buffers and returns the other gradients.
///
/// `inputs` is the argument and `saved` a result of [`forward`]; `dy` (n, t, d_i) and `d_last`
/// (n, d_i, N) are the gradients of its results.
pub fn backward(
    inputs: &Inputs,
    saved: Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    a_log: &mut GradBuffer,
    d: &mut GradBuffer,
) -> Result<Gradients> {
    check(inputs)?;
    check_gradients(inputs, dy, d_last)?;
    match (inputs.u.device().is_cpu(), inputs.u.dtype()) {
        (true, DType::F32) => gradient::backward::<f32>(inputs, &saved, dy, d_last, a_log, d),
        (true, DType::F64) => gradient::backward::<f64>(inputs, &saved, dy, d_last, a_log, d),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(inputs) => cuda::backward(inputs, &saved, dy, d_last, a_log, d),
        _ => through_reference(inputs, dy, d_last, a_log, d),
    }
}

fn through_reference(
    inputs: &Inputs,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    a_log: &mut GradBuffer,
    d: &mut GradBuffer,
) -> Result<Gradients> {
    let Inputs { u, delta, b, c, z, .. } = *inputs;
    let mut tensors = vec![u, delta, inputs.a_log, b, c, inputs.d, z];
    tensors.extend(inputs.initial);
    let mut gradients = fallback::gradients(&tensors, &[Some(dy), d_last], |tensors| {
        let (y, last) = reference::forward(&Inputs {
            u: &tensors[0],
            delta: &tensors[1],
            a_log: &tensors[2],
            b: &tensors[3],
            c: &tensors[4],
            d: &tensors[5],
            z: &tensors[6],
            initial: tensors.get(7),
        })?;
        Ok(vec![y, last])
    })?;
    let d_initial = if inputs.initial.is_some() {
        gradients.pop()
    } else {
        None
    };
    a_log.add(&gradients[2])?;
    d.add(&gradients[5])?;
    Ok(Gradients {
        d_u: gradients[0].clone(),
        d_delta: gradients[1].clone(),
        d_b: gradients[3].clone(),
        d_c: gradients[4].clone(),
        d_z: gradients[6].clone(),
        d_initial,
    })
}

fn check(inputs: &Inputs) -> Result<()> {
    let (n, t, channels) = inputs.u.dims3()?;
    let (_, state) = inputs.a_log.dims2()?;
    if t == 0 || channels == 0 || state == 0 {
        candle_core::bail!(
            "selective_scan: expected at least one position, channel and state entry, found u {:?} and a_log {:?}",
            inputs.u.dims(),
            inputs.a_log.dims()
        );
    }
    let expected: [(&str, &Tensor, &[usize]); 6] = [
        ("delta", inputs.delta, &[n, t, channels]),
        ("z", inputs.z, &[n, t, channels]),
        ("a_log", inputs.a_log, &[channels, state]),
        ("b", inputs.b, &[n, t, state]),
        ("c", inputs.c, &[n, t, state]),
        ("d", inputs.d, &[channels]),
    ];
    for (name, tensor, dims) in expected {
        if tensor.dims() != dims {
            candle_core::bail!(
                "selective_scan: expected {name} of {dims:?} for u of {:?}, found {:?}",
                inputs.u.dims(),
                tensor.dims()
            );
        }
    }
    if let Some(initial) = inputs.initial
        && initial.dims() != [n, channels, state]
        && initial.dims() != [1, channels, state]
    {
        candle_core::bail!(
            "selective_scan: expected an initial state of ({n} or 1, {channels}, {state}), found {:?}; pass `last`",
            initial.dims()
        );
    }
    Ok(())
}

fn check_gradients(inputs: &Inputs, dy: &Tensor, d_last: Option<&Tensor>) -> Result<()> {
    let (n, _, channels) = inputs.u.dims3()?;
    let state = inputs.a_log.dim(1)?;
    if dy.dims() != inputs.u.dims() {
        candle_core::bail!(
            "selective_scan: expected a gradient of {:?} for y, found {:?}",
            inputs.u.dims(),
            dy.dims()
        );
    }
    match d_last {
        Some(d) if d.dims() != [n, channels, state] => candle_core::bail!(
            "selective_scan: expected a gradient of ({n}, {channels}, {state}) for the last state, found {:?}",
            d.dims()
        ),
        _ => Ok(()),
    }
}
