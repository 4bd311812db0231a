//! Multi-head softmax attention with rotary positions, over new rows and rows of earlier calls.
//!
//! ```text
//! q̂ = R(q), k̂ = R(k)          rotary, per head: R(x) = x·cos + rotate_half(x)·sin, angles position · 10000^(-2i/d_h)
//! w = softmax(q̂·k̂ᵀ / √d_h)    over the s past and the t new keys; causal: query i sees keys 0..=s + i
//! out = dropout(w) v           q (n, t, h·d_h), kv (n, t, 2·h·d_h) = [k | v], out (n, t, h·d_h)
//! present = [k̂ | v]            (n, t, 2·h·d_h): the rows to append to the past, which hold rotated keys
//! ```
//!
//! Keys hidden by `visible` get the lowest finite score: a query whose every key is hidden attends
//! to all of them evenly, as in the published Python package. Past keys are never hidden.
//!
//! Sources: Vaswani et al., arXiv 1706.03762, §3.2; Su et al., arXiv 2104.09864 (rotary); the
//! blocked form and its gradients: Dao, FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::attention::{self, Attention};
//!
//! let a = Attention { heads: 2, head_dim: 4, rotary: true, causal: true, dropout: None };
//! let q = Tensor::zeros((1, 3, 8), DType::F32, &Device::Cpu)?; // (n, t, h·d_h)
//! let kv = Tensor::ones((1, 3, 16), DType::F32, &Device::Cpu)?; // (n, t, 2·h·d_h)
//! let output = attention::forward(&a, &q, &kv, None, 0, None)?;
//! assert_eq!(output.out.dims(), [1, 3, 8]);
//! assert_eq!(output.present.dims(), [1, 3, 16]); // the rotated keys, and the values, for a cache
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

use crate::dropout::Dropout;
use crate::fallback;

/// Most channels of a head for which CUDA devices have kernels.
pub const MAX_HEAD_DIM_ON_CUDA: usize = 128;

/// The kind of attention; attention has no parameters of its own.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Heads h.
    pub heads: usize,
    /// Channels of a head d_h; even with `rotary`.
    pub head_dim: usize,
    /// Whether queries and keys are rotated by their positions.
    pub rotary: bool,
    /// Whether a query sees only keys at its own and earlier positions.
    pub causal: bool,
    /// Dropout of the weights; an element's index is ((sequence · h + head) · t + query) · (s + t)
    /// + key.
    pub dropout: Option<Dropout>,
}

/// The results of [`forward`].
pub struct Output {
    /// Mixed values (n, t, h·d_h).
    pub out: Tensor,
    /// Rotated keys and values of the new rows (n, t, 2·h·d_h), to append to the past.
    pub present: Tensor,
    /// Input of [`backward`].
    pub saved: Saved,
}

/// The tensors kept for the backward pass.
///
/// The weights (n, h, t, s + t) if they are small, otherwise the output and one or two numbers per
/// query. CUDA devices keep nothing if there are few keys.
pub struct Saved(Kept);

/// The tensors that each kind of kernel keeps.
enum Kept {
    /// The result was empty, or the reference implementation computed it.
    Nothing,
    Cpu(cpu::Saved),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Saved),
}

/// The gradients that [`backward`] returns.
pub struct Gradients {
    /// Gradient of the queries (n, t, h·d_h).
    pub d_q: Tensor,
    /// Gradient of the keys and values (n, t, 2·h·d_h).
    pub d_kv: Tensor,
    /// Gradient of the past, in the past's shape: summed over the sequences if they share it.
    pub d_past: Option<Tensor>,
}

/// Attends from the t new rows to the s past rows and the new ones.
///
/// `q` (n, t, h·d_h); `kv` (n, t, 2·h·d_h) = \[k | v\]; `past` (n, s, 2·h·d_h), or (1, s, 2·h·d_h)
/// shared by all sequences: rows of earlier `present`s; `start`: the position of the first new row;
/// `visible` (n, t) `u8`: 0 hides a new key. The last dimension of an input may be part of a larger
/// one (a narrow of a packed projection or of a cache); it is not copied.
pub fn forward(
    a: &Attention,
    q: &Tensor,
    kv: &Tensor,
    past: Option<&Tensor>,
    start: usize,
    visible: Option<&Tensor>,
) -> Result<Output> {
    forward_as(&Call::new(a, q, kv, past, start, visible)?, None)
}

/// [`forward`]; on the CPU as `plan` says, by default the fastest plan for the sizes.
fn forward_as(call: &Call, plan: Option<cpu::Plan>) -> Result<Output> {
    let sizes = call.sizes;
    if sizes.is_empty() {
        return Ok(Output {
            out: call.q.zeros_like()?,
            present: call.kv.zeros_like()?,
            saved: Saved(Kept::Nothing),
        });
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(call) {
        let (out, present, saved) = cuda::forward(call)?;
        let saved = Saved(Kept::Cuda(saved));
        return Ok(Output { out, present, saved });
    }
    let plan = plan.unwrap_or_else(|| cpu::Plan::of(call));
    let (out, present, saved) = match (call.q.device().is_cpu(), call.q.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(call, plan)?,
        (true, DType::F64) => cpu::forward::<f64>(call, plan)?,
        _ => {
            let (out, present) = reference::forward(call.a, call.q, call.kv, call.past, call.start, call.visible)?;
            return Ok(Output {
                out,
                present,
                saved: Saved(Kept::Nothing),
            });
        }
    };
    Ok(Output {
        out,
        present,
        saved: Saved(Kept::Cpu(saved)),
    })
}

/// The gradients of all inputs of a call of [`forward`], which returned `saved`.
///
/// `d_out` (n, t, h·d_h) and `d_present` (n, t, 2·h·d_h) are the gradients of the results;
/// `d_present` is given if later rows attended to these.
pub fn backward(
    a: &Attention,
    q: &Tensor,
    kv: &Tensor,
    past: Option<&Tensor>,
    start: usize,
    visible: Option<&Tensor>,
    saved: Saved,
    d_out: &Tensor,
    d_present: Option<&Tensor>,
) -> Result<Gradients> {
    let call = Call::new(a, q, kv, past, start, visible)?;
    expect("the gradient of the output", d_out, q.dims(), q.dtype())?;
    if let Some(d_present) = d_present {
        expect("the gradient of the present rows", d_present, kv.dims(), q.dtype())?;
    }
    if call.sizes.is_empty() {
        return Ok(Gradients {
            d_q: q.zeros_like()?,
            d_kv: kv.zeros_like()?,
            d_past: past.map(Tensor::zeros_like).transpose()?,
        });
    }
    match (saved.0, q.dtype()) {
        #[cfg(feature = "cuda")]
        (Kept::Cuda(saved), _) => cuda::backward(&call, &saved, d_out, d_present),
        (Kept::Cpu(saved), DType::F32) => cpu::backward::<f32>(&call, &saved, d_out, d_present),
        (Kept::Cpu(saved), DType::F64) => cpu::backward::<f64>(&call, &saved, d_out, d_present),
        (Kept::Cpu(_), other) => candle_core::bail!("attention: saved by another call: no kernel for {other:?}"),
        (Kept::Nothing, _) => {
            let inputs: Vec<&Tensor> = [q, kv].into_iter().chain(past).collect();
            let mut gradients = fallback::gradients(&inputs, &[Some(d_out), d_present], |inputs| {
                let (out, present) = reference::forward(a, &inputs[0], &inputs[1], inputs.get(2), start, visible)?;
                Ok(vec![out, present])
            })?
            .into_iter();
            let (Some(d_q), Some(d_kv)) = (gradients.next(), gradients.next()) else {
                candle_core::bail!("attention: expected the gradients of two inputs at least")
            };
            let d_past = gradients.next();
            Ok(Gradients { d_q, d_kv, d_past })
        }
    }
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sizes {
    /// n.
    sequences: usize,
    /// t: new rows of a sequence.
    queries: usize,
    /// s: past rows.
    past: usize,
    /// h.
    heads: usize,
    /// d_h.
    head_dim: usize,
}

impl Sizes {
    /// s + t.
    fn keys(&self) -> usize {
        self.past + self.queries
    }

    /// h · d_h.
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Whether there is no new row.
    fn is_empty(&self) -> bool {
        self.sequences == 0 || self.queries == 0
    }
}

/// The inputs of a call, checked against each other.
struct Call<'a> {
    a: &'a Attention,
    q: &'a Tensor,
    kv: &'a Tensor,
    past: Option<&'a Tensor>,
    start: usize,
    visible: Option<&'a Tensor>,
    sizes: Sizes,
}

impl<'a> Call<'a> {
    fn new(
        a: &'a Attention,
        q: &'a Tensor,
        kv: &'a Tensor,
        past: Option<&'a Tensor>,
        start: usize,
        visible: Option<&'a Tensor>,
    ) -> Result<Self> {
        a.check()?;
        let (n, t, width) = q.dims3()?;
        let expected = a.heads.checked_mul(a.head_dim);
        if expected != Some(width) {
            candle_core::bail!(
                "attention: expected queries of {} heads of {} channels, found {:?}: split or project them first",
                a.heads,
                a.head_dim,
                q.dims()
            );
        }
        expect("keys and values", kv, &[n, t, 2 * width], q.dtype())?;
        let mut rows = 0;
        if let Some(past) = past {
            let (batch, s, _) = past.dims3()?;
            let batch = if batch == 1 { 1 } else { n };
            expect("the past", past, &[batch, s, 2 * width], q.dtype())?;
            rows = s;
        }
        if let Some(visible) = visible {
            expect("the mask of visible keys", visible, &[n, t], DType::U8)?;
        }
        let sizes = Sizes {
            sequences: n,
            queries: t,
            past: rows,
            heads: a.heads,
            head_dim: a.head_dim,
        };
        Ok(Self {
            a,
            q,
            kv,
            past,
            start,
            visible,
            sizes,
        })
    }
}

impl Attention {
    fn check(&self) -> Result<()> {
        if self.heads == 0 || self.head_dim == 0 {
            candle_core::bail!(
                "attention: expected at least one head of one channel, found {} of {}",
                self.heads,
                self.head_dim
            );
        }
        if self.rotary && !self.head_dim.is_multiple_of(2) {
            candle_core::bail!(
                "attention: rotary positions need an even head dimension, found {}: make it even or turn them off",
                self.head_dim
            );
        }
        if let Some(dropout) = self.dropout
            && !(0.0..=1.0).contains(&dropout.probability)
        {
            candle_core::bail!(
                "attention: expected a dropout probability in [0, 1], found {}",
                dropout.probability
            );
        }
        Ok(())
    }
}

fn expect(what: &str, tensor: &Tensor, dims: &[usize], dtype: DType) -> Result<()> {
    if tensor.dims() != dims || tensor.dtype() != dtype {
        candle_core::bail!(
            "attention: expected {what} of {dims:?} in {dtype:?}, found {:?} in {:?}",
            tensor.dims(),
            tensor.dtype()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
