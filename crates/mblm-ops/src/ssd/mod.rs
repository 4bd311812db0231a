//! Mamba-2's scan in its state-space-dual form: a linear recurrence with one decay per head.
//!
//! ```text
//! Δ_t = softplus(dt_t + dt_bias)      A = -exp(a_log)                           per head
//! h_t = exp(Δ_t A) h_{t-1} + Δ_t (x_t ⊗ B_t)                                     per head, (P, N)
//! y_t = h_t C_t + D x_t
//! xbc (n, t, H·P + 2N) = [x | B | C], dt (n, t, H), a_log, d, dt_bias (H), h (n, H, P, N), y (n, t, H·P)
//! ```
//!
//! B and C are shared by the heads (one group). Positions are computed in chunks of Q: with c_i the
//! sum of ΔA from the chunk's first position to i, and h_0 the state before the chunk,
//!
//! ```text
//! y_i = Σ_{j≤i} exp(c_i - c_j) (C_i·B_j) Δ_j x_j + exp(c_i) h_0 C_i + D x_i
//! h_Q = exp(c_Q) h_0 + Σ_j exp(c_Q - c_j) Δ_j x_j ⊗ B_j
//! ```
//!
//! The first formula is matrix products within a chunk, the second a recurrence over chunks.
//! Source: Dao and Gu, arXiv 2405.21060, section 6.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::ssd::{self, Inputs, Ssd};
//!
//! let s = Ssd { heads: 2, head_dim: 4, state: 3, chunk: 8 };
//! let xbc = Tensor::ones((1, 5, 2 * 4 + 2 * 3), DType::F32, &Device::Cpu)?; // (n, t, H·P + 2N)
//! let dt = Tensor::zeros((1, 5, 2), DType::F32, &Device::Cpu)?; // (n, t, H)
//! let by_head = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
//! let inputs = Inputs { xbc: &xbc, dt: &dt, a_log: &by_head, d: &by_head, dt_bias: &by_head, initial: None };
//! let output = ssd::forward(&s, &inputs)?;
//! assert_eq!((output.y.dims(), output.last.dims()), (&[1, 5, 8][..], &[1, 2, 4, 3][..]));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod chunk_gradient;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod gradient;
mod recurrence;
pub(crate) mod reference;
mod scan;
#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// Most channels of a head for which CUDA devices have kernels.
pub const MAX_HEAD_DIM_ON_CUDA: usize = 64;

/// Largest N, the state entries of a channel, for which CUDA devices have kernels.
pub const MAX_STATES_ON_CUDA: usize = 128;

/// The sizes of a scan that do not follow from its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Ssd {
    /// H, the number of heads.
    pub heads: usize,
    /// P, the channels of a head.
    pub head_dim: usize,
    /// N, the state entries of a channel.
    pub state: usize,
    /// Q, the positions of a chunk; affects speed and rounding only.
    pub chunk: usize,
}

/// The inputs of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (n, t, H·P + 2N) = [x | B | C].
    pub xbc: &'a Tensor,
    /// (n, t, H), time steps before bias and softplus.
    pub dt: &'a Tensor,
    /// (H).
    pub a_log: &'a Tensor,
    /// (H), the weight of the skip connection.
    pub d: &'a Tensor,
    /// (H).
    pub dt_bias: &'a Tensor,
    /// The state before the first position, (n or 1, H, P, N).
    ///
    /// Batch 1 is shared by all sequences; `None` means zeros.
    pub initial: Option<&'a Tensor>,
}

/// The results of [`forward`].
#[derive(Debug)]
pub struct Output {
    /// (n, t, H·P).
    pub y: Tensor,
    /// The state after the last position, (n, H, P, N).
    pub last: Tensor,
    /// Input of [`backward`].
    pub saved: Saved,
}

/// The values that [`backward`] needs besides the inputs: the states between chunks, if any.
///
/// (n, chunks - 1, H, P, N); on CUDA devices the states before every chunk.
#[derive(Debug)]
pub struct Saved {
    borders: Option<Tensor>,
}

/// The buffers of the parameters' gradients.
pub struct ParameterGradients<'a> {
    /// Buffer for `a_log`.
    pub a_log: &'a mut GradBuffer,
    /// Buffer for `d`.
    pub d: &'a mut GradBuffer,
    /// Buffer for `dt_bias`.
    pub dt_bias: &'a mut GradBuffer,
}

/// The gradients of the other inputs, in the inputs' shapes.
#[derive(Debug)]
pub struct Gradients {
    /// Gradient of `xbc`.
    pub d_xbc: Tensor,
    /// Gradient of `dt`.
    pub d_dt: Tensor,
    /// Gradient of `initial`, if given; summed over the sequences if they share it.
    pub d_initial: Option<Tensor>,
}

/// The scan of `inputs` from the initial state.
///
/// # Errors
/// Shapes that do not match.
pub fn forward(s: &Ssd, inputs: &Inputs) -> Result<Output> {
    check(s, inputs)?;
    match (inputs.xbc.device().is_cpu(), inputs.xbc.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(s, inputs),
        (true, DType::F64) => cpu::forward::<f64>(s, inputs),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(s, inputs.xbc)? => cuda::forward(s, inputs),
        _ => {
            let (y, last) = reference::forward(s, inputs)?;
            let saved = Saved { borders: None };
            Ok(Output { y, last, saved })
        }
    }
}

/// Adds the gradients of the parameters to their buffers and returns the other gradients.
///
/// `s` and `inputs` are the arguments and `saved` a result of [`forward`]; `dy` (n, t, H·P) and
/// `d_last` (n, H, P, N) are the gradients of its results.
pub fn backward(
    s: &Ssd,
    inputs: &Inputs,
    saved: Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    grads: ParameterGradients,
) -> Result<Gradients> {
    check(s, inputs)?;
    check_gradients(s, inputs, dy, d_last)?;
    match (inputs.xbc.device().is_cpu(), inputs.xbc.dtype()) {
        (true, DType::F32) => gradient::backward::<f32>(s, inputs, &saved, dy, d_last, grads),
        (true, DType::F64) => gradient::backward::<f64>(s, inputs, &saved, dy, d_last, grads),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(s, inputs.xbc)? => cuda::backward(s, inputs, saved, dy, d_last, grads),
        _ => through_reference(s, inputs, dy, d_last, grads),
    }
}

fn through_reference(
    s: &Ssd,
    inputs: &Inputs,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    grads: ParameterGradients,
) -> Result<Gradients> {
    let mut tensors = vec![inputs.xbc, inputs.dt, inputs.a_log, inputs.d, inputs.dt_bias];
    tensors.extend(inputs.initial);
    let mut gradients = fallback::gradients(&tensors, &[Some(dy), d_last], |tensors| {
        let inputs = Inputs {
            xbc: &tensors[0],
            dt: &tensors[1],
            a_log: &tensors[2],
            d: &tensors[3],
            dt_bias: &tensors[4],
            initial: tensors.get(5),
        };
        let (y, last) = reference::forward(s, &inputs)?;
        Ok(vec![y, last])
    })?;
    let d_initial = if inputs.initial.is_some() {
        gradients.pop()
    } else {
        None
    };
    grads.a_log.add(&gradients[2])?;
    grads.d.add(&gradients[3])?;
    grads.dt_bias.add(&gradients[4])?;
    Ok(Gradients {
        d_xbc: gradients[0].clone(),
        d_dt: gradients[1].clone(),
        d_initial,
    })
}

fn check(s: &Ssd, inputs: &Inputs) -> Result<()> {
    let (n, t, channels) = inputs.xbc.dims3()?;
    let Ssd {
        heads,
        head_dim,
        state,
        chunk,
    } = *s;
    if heads == 0 || head_dim == 0 || state == 0 || chunk == 0 {
        candle_core::bail!("ssd: every size must be at least 1, found {s:?}");
    }
    if channels != heads * head_dim + 2 * state || t == 0 {
        candle_core::bail!(
            "ssd: expected xbc of (n, t, {heads}·{head_dim} + 2·{state}) with at least one position, found {:?}",
            inputs.xbc.dims()
        );
    }
    if inputs.dt.dims() != [n, t, heads] {
        candle_core::bail!("ssd: expected dt of ({n}, {t}, {heads}), found {:?}", inputs.dt.dims());
    }
    for (name, parameter) in [("a_log", inputs.a_log), ("d", inputs.d), ("dt_bias", inputs.dt_bias)] {
        if parameter.dims() != [heads] {
            candle_core::bail!("ssd: expected {name} of ({heads}), found {:?}", parameter.dims());
        }
    }
    if let Some(initial) = inputs.initial
        && initial.dims() != [n, heads, head_dim, state]
        && initial.dims() != [1, heads, head_dim, state]
    {
        candle_core::bail!(
            "ssd: expected an initial state of ({n} or 1, {heads}, {head_dim}, {state}), found {:?}; pass `last`",
            initial.dims()
        );
    }
    Ok(())
}

fn check_gradients(s: &Ssd, inputs: &Inputs, dy: &Tensor, d_last: Option<&Tensor>) -> Result<()> {
    let (n, t, _) = inputs.xbc.dims3()?;
    if dy.dims() != [n, t, s.heads * s.head_dim] {
        candle_core::bail!(
            "ssd: expected a gradient of ({n}, {t}, {}) for y, found {:?}",
            s.heads * s.head_dim,
            dy.dims()
        );
    }
    match d_last {
        Some(d) if d.dims() != [n, s.heads, s.head_dim, s.state] => candle_core::bail!(
            "ssd: expected a gradient of ({n}, {}, {}, {}) for the last state, found {:?}",
            s.heads,
            s.head_dim,
            s.state,
            d.dims()
        ),
        _ => Ok(()),
    }
}
