//! Attention with few keys on CUDA: one warp per head of a sequence, all rows in shared memory.
//!
//! Nothing is kept for the backward pass.

use candle_core::{Result, Tensor};

use super::{Gradients, Inputs};
use crate::cuda::{self, Kernel, Module};

/// Most queries that the kernels support.
pub(super) const QUERIES: usize = 32;
/// Most keys, past and new, that the kernels support.
pub(super) const KEYS: usize = 64;

/// Shared memory of a block; a multiprocessor has room for at least two blocks.
const SHARED: usize = 100 << 10;
/// Most warps of a block.
const WARPS: usize = 4;
/// Warps that fill a large GPU several times over.
const ENOUGH_WARPS: usize = 1 << 14;

/// Warps and shared memory of a block, if a warp needs `each` bytes beside a row of zeros.
fn block(head_dim: usize, each: usize) -> (usize, usize) {
    let zeros = 2 * line(head_dim);
    let warps = (SHARED.saturating_sub(zeros) / each).clamp(1, WARPS);
    (warps, zeros + warps * each)
}

/// Elements from one row in shared memory to the next.
fn line(head_dim: usize) -> usize {
    head_dim + 8
}

/// The kernel's name for this number of keys.
fn name(kernel: &str, keys: usize) -> String {
    let registers = match keys {
        ..=16 => 16,
        17..=32 => 32,
        _ => KEYS,
    };
    format!("{kernel}{registers}")
}

pub(super) fn forward(inputs: &Inputs, module: Module) -> Result<(Tensor, Tensor)> {
    let sizes = inputs.sizes;
    let (t, s) = (sizes.queries, sizes.past);
    let out = cuda::empty(inputs.q.shape(), inputs.dtype(), inputs.q.device())?;
    let present = cuda::empty(inputs.kv.shape(), inputs.dtype(), inputs.q.device())?;
    let angles = inputs.angles()?;
    let (warps, shared) = block(sizes.head_dim, 2 * (3 * t + 2 * s) * line(sizes.head_dim));
    Kernel::untyped(inputs.q.device(), module, &name("short_forward", sizes.keys()))?
        .rows(&inputs.q)?
        .rows(&inputs.kv)?
        .maybe_rows(inputs.past.as_ref())?
        .maybe(angles.as_ref())?
        .tensor(&out)?
        .tensor(&present)?
        .int(sizes.sequences)?
        .int(t)?
        .int(s)?
        .int(sizes.heads)?
        .int(inputs.call.a.causal.into())?
        .float(inputs.scale())
        .launch((sizes.sequences * sizes.heads).div_ceil(warps), 32 * warps, shared)?;
    Ok((out, present))
}

pub(super) fn backward(
    inputs: &Inputs,
    module: Module,
    d_out: &Tensor,
    d_present: Option<&Tensor>,
) -> Result<Gradients> {
    let sizes = inputs.sizes;
    let (t, s) = (sizes.queries, sizes.past);
    let d_q = cuda::empty(inputs.q.shape(), inputs.dtype(), inputs.q.device())?;
    let d_kv = cuda::empty(inputs.kv.shape(), inputs.dtype(), inputs.q.device())?;
    let angles = inputs.angles()?;
    // the number of sequences whose gradients of the past one warp sums
    let each = match inputs.shares_past() {
        true => (sizes.sequences * sizes.heads / ENOUGH_WARPS).clamp(1, 16),
        false => 1,
    };
    let parts = sizes.sequences.div_ceil(each);
    let d_past = inputs.d_past(parts)?;
    let sums = match d_past.parts {
        Some(_) => 2 * s * sizes.head_dim * size_of::<f32>(),
        None => 0,
    };
    let (warps, shared) = block(sizes.head_dim, 2 * (4 * t + 2 * s) * line(sizes.head_dim) + sums);
    Kernel::untyped(inputs.q.device(), module, &name("short_backward", sizes.keys()))?
        .rows(&inputs.q)?
        .rows(&inputs.kv)?
        .maybe_rows(inputs.past.as_ref())?
        .rows(d_out)?
        .maybe_rows(d_present)?
        .maybe(angles.as_ref())?
        .tensor(&d_q)?
        .tensor(&d_kv)?
        .maybe(d_past.sum.as_ref().filter(|_| inputs.past.is_some()))?
        .maybe(d_past.parts.as_ref())?
        .int(sizes.sequences)?
        .int(t)?
        .int(s)?
        .int(sizes.heads)?
        .int(inputs.call.a.causal.into())?
        .int(each)?
        .float(inputs.scale())
        .float(inputs.root())
        .launch((parts * sizes.heads).div_ceil(warps), 32 * warps, shared)?;
    let d_past = d_past.finish()?;
    Ok(Gradients { d_q, d_kv, d_past })
}
