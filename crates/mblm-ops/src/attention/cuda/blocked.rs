//! Attention with many keys on CUDA, in memory linear in t.
//!
//! Queries and keys are rotated first; then blocks of one kind go through blocks of the other, on
//! tensor cores or, for other types and sizes, in `f32`.
//!
//! The backward pass rotates again, so that only the output and one number per query are kept.

use candle_core::{DType, Result, Tensor};

use super::{Gradients, Inputs, MODULE};
use crate::cuda::{self, Kernel, Module};

/// A kernel, with the rows, threads and shared memory of a block.
struct Plan {
    module: Module,
    name: String,
    rows: usize,
    threads: usize,
    shared: usize,
}

/// The size of a block: rows of its own kind and of the other kind.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Queries,
    Keys,
}

impl Plan {
    fn new(inputs: &Inputs, pass: Pass) -> Self {
        match inputs.tensor_cores() {
            Some(module) => Self::long(inputs, pass, module),
            None => Self::plain(inputs, pass),
        }
    }

    /// The plan for the kernels of `heads.cuh`, matching their instantiations.
    fn long(inputs: &Inputs, pass: Pass, module: Module) -> Self {
        let line = 2 * (inputs.sizes.head_dim + 8); // bytes of a row
        let narrow = inputs.sizes.head_dim <= 64;
        let (name, rows, others, kept) = match (pass, narrow) {
            (Pass::Forward, true) => ("long_forward", 128, 64, 1),
            (Pass::Forward, false) => ("long_forward", 128, 32, 1),
            (Pass::Queries, true) => ("long_backward_queries", 128, 32, 2),
            (Pass::Queries, false) => ("long_backward_queries", 64, 64, 2),
            (Pass::Keys, true) => ("long_backward_keys", 128, 64, 2),
            (Pass::Keys, false) => ("long_backward_keys", 64, 64, 2),
        };
        let numbers = match pass {
            Pass::Keys => 4 * others * size_of::<f32>(),
            _ => 0,
        };
        // tiles come in pairs, such as keys and values; at first the block's own rows occupy the
        // place of the second pair
        let pair = 2 * others;
        Self {
            module,
            name: name.to_string(),
            rows,
            threads: 128,
            shared: (pair + pair.max(kept * rows)) * line + numbers,
        }
    }

    /// The plan for the kernels of `attention.cu`, matching their instantiations: one row or four
    /// per thread.
    fn plain(inputs: &Inputs, pass: Pass) -> Self {
        const OTHERS: usize = 32;
        let line = inputs.sizes.head_dim.next_multiple_of(4) + 4;
        let (name, count, kept, weights) = match pass {
            Pass::Forward => ("plain_forward", inputs.sizes.queries, 1, 1),
            Pass::Queries => ("plain_backward_queries", inputs.sizes.queries, 2, 1),
            Pass::Keys => ("plain_backward_keys", inputs.sizes.keys(), 2, 2),
        };
        let each = if count <= 16 { 1 } else { 4 };
        let suffix = match inputs.dtype() {
            DType::BF16 => "bf16",
            _ => "f32",
        };
        let rows = 8 * each;
        Self {
            module: MODULE,
            name: format!("{name}{each}_{suffix}"),
            rows,
            threads: 128,
            shared: ((kept * rows + 2 * OTHERS) * line + weights * rows * (OTHERS + 1)) * size_of::<f32>(),
        }
    }

    fn kernel(&self, inputs: &Inputs) -> Result<Kernel> {
        Kernel::untyped(inputs.q.device(), self.module, &self.name)
    }

    /// Passes the sizes of the call and launches blocks for `count` rows of each head.
    ///
    /// `root` is given for the backward pass only.
    fn launch(&self, kernel: Kernel, inputs: &Inputs, count: usize, root: Option<f64>) -> Result<()> {
        let sizes = inputs.sizes;
        let blocks = count.div_ceil(self.rows);
        let mut kernel = kernel.int(sizes.queries)?.int(sizes.past)?.int(sizes.heads)?;
        if inputs.tensor_cores().is_none() {
            kernel = kernel.int(sizes.head_dim)?;
        }
        kernel = kernel
            .int(blocks)?
            .int(inputs.call.a.causal.into())?
            .float(inputs.scale());
        if let Some(root) = root {
            kernel = kernel.float(root);
        }
        kernel.launch(sizes.sequences * sizes.heads * blocks, self.threads, self.shared)
    }
}

/// The output, the present rows and the logarithms (n, h, t) of [`Form::Blocked`](super::Form).
pub(super) fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor, Tensor)> {
    let sizes = inputs.sizes;
    let angles = inputs.angles()?;
    let present = inputs.rotate(&inputs.kv, angles.as_ref())?;
    let q = inputs.rotate(&inputs.q, angles.as_ref())?;
    let out = cuda::empty(q.shape(), q.dtype(), q.device())?;
    let logs = cuda::empty((sizes.sequences, sizes.heads, sizes.queries), DType::F32, q.device())?;
    let plan = Plan::new(inputs, Pass::Forward);
    let kernel = plan
        .kernel(inputs)?
        .rows(&q)?
        .rows(&present)?
        .maybe_rows(inputs.past.as_ref())?
        .tensor(&out)?
        .tensor(&logs)?;
    plan.launch(kernel, inputs, sizes.queries, None)?;
    Ok((out, present, logs))
}

pub(super) fn backward(
    inputs: &Inputs,
    (out, logs): (&Tensor, &Tensor),
    d_out: &Tensor,
    d_present: Option<&Tensor>,
) -> Result<Gradients> {
    let sizes = inputs.sizes;
    let (n, t, device) = (sizes.sequences, sizes.queries, inputs.q.device());
    let angles = inputs.angles()?;
    let present = inputs.rotate(&inputs.kv, angles.as_ref())?;
    let q = inputs.rotate(&inputs.q, angles.as_ref())?;
    let dots = cuda::empty(logs.shape(), DType::F32, device)?;
    Kernel::new(device, MODULE, "dots", inputs.dtype())?
        .tensor(out)?
        .rows(d_out)?
        .tensor(&dots)?
        .int(n)?
        .int(t)?
        .int(sizes.heads)?
        .int(sizes.head_dim)?
        .launch((n * t * sizes.heads).div_ceil(8), 256, 0)?;
    let d_q = cuda::empty(q.shape(), q.dtype(), device)?;
    let plan = Plan::new(inputs, Pass::Queries);
    let kernel = plan
        .kernel(inputs)?
        .rows(&q)?
        .rows(&present)?
        .maybe_rows(inputs.past.as_ref())?
        .rows(d_out)?
        .tensor(logs)?
        .tensor(&dots)?
        .maybe(angles.as_ref())?
        .tensor(&d_q)?;
    plan.launch(kernel, inputs, t, Some(inputs.root()))?;
    let d_kv = cuda::empty(present.shape(), q.dtype(), device)?;
    let d_past = inputs.d_past(n)?;
    let plan = Plan::new(inputs, Pass::Keys);
    let kernel = plan
        .kernel(inputs)?
        .rows(&q)?
        .rows(&present)?
        .maybe_rows(inputs.past.as_ref())?
        .rows(d_out)?
        .maybe_rows(d_present)?
        .tensor(logs)?
        .tensor(&dots)?
        .maybe(angles.as_ref())?
        .tensor(&d_kv)?
        .maybe(d_past.sum.as_ref().filter(|_| inputs.past.is_some()))?
        .maybe(d_past.parts.as_ref())?;
    plan.launch(kernel, inputs, sizes.keys(), Some(inputs.root()))?;
    let d_past = d_past.finish()?;
    Ok(Gradients { d_q, d_kv, d_past })
}
