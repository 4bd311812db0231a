//! The CUDA kernels of attention, in three forms.
//!
//! [`short`] computes few keys, one warp per head. [`blocked`] computes many keys, block by block
//! with running softmax statistics. [`decode`] computes one query after many keys, which are
//! divided among blocks.
//!
//! In bf16, heads of 16, 32, 64, 96 or 128 channels use tensor cores; other heads of up to 128
//! channels, and all `f32` heads, are computed in `f32`. Hidden keys and dropout are not supported
//! here.

mod blocked;
mod decode;
mod short;

use candle_core::{DType, Result, Tensor};

use super::{Call, Gradients, MAX_HEAD_DIM_ON_CUDA as MAX_HEAD_DIM, Sizes};
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(ATTENTION);

/// Neighboring elements that a thread reads at once.
const WIDE: usize = 8;

/// The tensor-core kernels for heads of `head_dim` channels, if any.
fn tensor_cores(head_dim: usize) -> Option<Module> {
    Some(match head_dim {
        16 => module!(ATTENTION_16),
        32 => module!(ATTENTION_32),
        64 => module!(ATTENTION_64),
        96 => module!(ATTENTION_96),
        128 => module!(ATTENTION_128),
        _ => return None,
    })
}

/// The tensors that the kernels keep for the backward pass.
pub(super) struct Saved {
    sizes: Sizes,
    form: Form,
}

enum Form {
    /// Few keys: nothing is kept.
    Short,
    /// The output (n, t, h·d_h), and log2 Σ e^score (n, h, t).
    Blocked { out: Tensor, logs: Tensor },
}

/// Whether the kernels support a call.
pub(super) fn takes(call: &Call) -> bool {
    let drops = call.a.dropout.is_some_and(|dropout| dropout.probability > 0.0);
    cuda::takes(call.q) && call.visible.is_none() && !drops && call.sizes.head_dim <= MAX_HEAD_DIM
}

pub(super) fn forward(call: &Call) -> Result<(Tensor, Tensor, Saved)> {
    let inputs = Inputs::new(call)?;
    let (out, present, form) = match inputs.short() {
        Some(module) => {
            let (out, present) = short::forward(&inputs, module)?;
            (out, present, Form::Short)
        }
        None => {
            let (out, present, logs) = match inputs.decodes() {
                true => decode::forward(&inputs)?,
                false => blocked::forward(&inputs)?,
            };
            (out.clone(), present, Form::Blocked { out, logs })
        }
    };
    let sizes = call.sizes;
    Ok((out, present, Saved { sizes, form }))
}

pub(super) fn backward(call: &Call, saved: &Saved, d_out: &Tensor, d_present: Option<&Tensor>) -> Result<Gradients> {
    if saved.sizes != call.sizes {
        candle_core::bail!(
            "attention: saved by a call of {:?}, found {:?}",
            saved.sizes,
            call.sizes
        );
    }
    let inputs = Inputs::new(call)?;
    let d_out = inputs.rows(d_out)?;
    let d_present = d_present.map(|d_present| inputs.rows(d_present)).transpose()?;
    match (&saved.form, inputs.short()) {
        (Form::Short, Some(module)) => short::backward(&inputs, module, &d_out, d_present.as_ref()),
        (Form::Short, None) => candle_core::bail!("attention: saved in another type than {:?}", call.q.dtype()),
        (Form::Blocked { out, logs }, _) => blocked::backward(&inputs, (out, logs), &d_out, d_present.as_ref()),
    }
}

/// The inputs of a call as the kernels read them.
struct Inputs<'a> {
    call: &'a Call<'a>,
    sizes: Sizes,
    q: Tensor,
    kv: Tensor,
    /// `None` if the past has no rows.
    past: Option<Tensor>,
}

impl<'a> Inputs<'a> {
    fn new(call: &'a Call<'a>) -> Result<Self> {
        let sizes = call.sizes;
        let past = call.past.filter(|_| sizes.past > 0);
        Ok(Self {
            call,
            sizes,
            q: readable(call.q, &sizes)?,
            kv: readable(call.kv, &sizes)?,
            past: past.map(|past| readable(past, &sizes)).transpose()?,
        })
    }

    /// `x` (n, t, ·), copied if the kernels cannot read it in place.
    fn rows(&self, x: &Tensor) -> Result<Tensor> {
        readable(x, &self.sizes)
    }

    fn dtype(&self) -> DType {
        self.q.dtype()
    }

    /// The tensor-core kernels for this call, if any.
    fn tensor_cores(&self) -> Option<Module> {
        match self.dtype() {
            DType::BF16 => tensor_cores(self.sizes.head_dim),
            _ => None,
        }
    }

    /// The kernels for few keys, if they support this call.
    fn short(&self) -> Option<Module> {
        let few = self.sizes.queries <= short::QUERIES && self.sizes.keys() <= short::KEYS;
        self.tensor_cores().filter(|_| few)
    }

    /// Whether there is one query and so many keys that several blocks should share them.
    fn decodes(&self) -> bool {
        self.sizes.queries == 1 && self.sizes.keys() > short::KEYS && self.sizes.head_dim.is_multiple_of(WIDE)
    }

    /// Whether several sequences share one past.
    fn shares_past(&self) -> bool {
        self.sizes.sequences > 1 && self.past.as_ref().is_some_and(|past| past.dims()[0] == 1)
    }

    /// 1/√d_h, the factor of the scores.
    fn root(&self) -> f64 {
        (self.sizes.head_dim as f64).powf(-0.5)
    }

    /// log2(e)/√d_h: the factor of the scores for powers of two.
    fn scale(&self) -> f64 {
        self.root() * std::f64::consts::LOG2_E
    }

    /// Cosines, then sines, of each new row's angles (t, d_h), with rotary positions.
    fn angles(&self) -> Result<Option<Tensor>> {
        if !self.call.a.rotary {
            return Ok(None);
        }
        let (t, head_dim) = (self.sizes.queries, self.sizes.head_dim);
        let table = cuda::empty((t, head_dim), DType::F32, self.q.device())?;
        Kernel::untyped(self.q.device(), MODULE, "angles")?
            .tensor(&table)?
            .int(self.call.start)?
            .int(t)?
            .int(head_dim)?
            .launch(cuda::blocks(t * head_dim / 2, 128), 128, 0)?;
        Ok(Some(table))
    }

    /// `x` (n, t, ·) with the first h heads of each row rotated by `table`, or by computed angles.
    fn rotate(&self, x: &Tensor, table: Option<&Tensor>) -> Result<Tensor> {
        if !self.call.a.rotary {
            return x.contiguous();
        }
        let (n, t, width) = x.dims3()?;
        let head_dim = self.sizes.head_dim;
        let rotated = cuda::empty((n, t, width), x.dtype(), x.device())?;
        let (name, at_once) = match head_dim.is_multiple_of(2 * WIDE) {
            true => ("rotate8", WIDE),
            false => ("rotate1", 1),
        };
        Kernel::new(x.device(), MODULE, name, x.dtype())?
            .rows(x)?
            .maybe(table)?
            .tensor(&rotated)?
            .int(t)?
            .int(self.call.start)?
            .int(width)?
            .int(self.sizes.heads)?
            .int(head_dim)?
            .launch(n * t, (width / 2 / at_once).next_multiple_of(32).min(128), 0)?;
        Ok(rotated)
    }

    /// Allocates the gradient of the past and, if the past is shared, `parts` partial gradients.
    fn d_past(&self, parts: usize) -> Result<PastGradient> {
        let Some(past) = &self.past else {
            let none = self.call.past.map(Tensor::zeros_like).transpose()?;
            return Ok(PastGradient { sum: none, parts: None });
        };
        let sum = cuda::empty(past.shape(), past.dtype(), past.device())?;
        let (_, s, width) = past.dims3()?;
        let parts = match self.shares_past() {
            true => Some(cuda::empty((parts, s, width), DType::F32, past.device())?),
            false => None,
        };
        Ok(PastGradient { sum: Some(sum), parts })
    }
}

/// The gradient of the past: one per sequence, or partial gradients to be summed if it is shared.
struct PastGradient {
    sum: Option<Tensor>,
    parts: Option<Tensor>,
}

impl PastGradient {
    /// The finished gradient; call after the kernel that writes it was launched.
    fn finish(self) -> Result<Option<Tensor>> {
        if let (Some(sum), Some(parts)) = (&self.sum, &self.parts) {
            let elements = sum.elem_count();
            Kernel::new(sum.device(), MODULE, "sum_parts", sum.dtype())?
                .tensor(parts)?
                .tensor(sum)?
                .int(parts.dim(0)?)?
                .int(elements)?
                .launch(cuda::blocks(elements, 32), (32, 32), 0)?;
        }
        Ok(self.sum)
    }
}

/// `x` (n, t, ·) with contiguous rows, aligned for wide reads if the heads allow them; copied if
/// needed.
fn readable(x: &Tensor, sizes: &Sizes) -> Result<Tensor> {
    let (n, t, _) = x.dims3()?;
    let (stride, offset) = (x.stride(), x.layout().start_offset());
    let aligned = |elements: usize| !sizes.head_dim.is_multiple_of(WIDE) || elements.is_multiple_of(WIDE);
    let readable =
        stride[2] == 1 && aligned(offset) && (n == 1 || aligned(stride[0])) && (t == 1 || aligned(stride[1]));
    match readable {
        true => Ok(x.clone()),
        false => x.force_contiguous(),
    }
}
