//! Attention of one query after many keys on CUDA: blocks share the keys of a head.
//!
//! A second kernel joins the blocks' results.

use candle_core::{DType, Result, Tensor};

use super::{Inputs, MODULE, WIDE};
use crate::cuda::{self, Kernel};

/// Threads of a block.
const THREADS: usize = 128;
/// Keys that a thread processes at once.
const AT_ONCE: usize = 4;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: usize = 132 * 8;

/// The output (n, 1, h·d_h), the present row and the logarithms (n, h, 1) of
/// [`Form::Blocked`](super::Form).
pub(super) fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor, Tensor)> {
    let sizes = inputs.sizes;
    let (heads, head_dim, device) = (sizes.sequences * sizes.heads, sizes.head_dim, inputs.q.device());
    let present = inputs.rotate(&inputs.kv, None)?;
    let q = inputs.rotate(&inputs.q, None)?;
    // a power of two of threads reads one key; together they make all wide reads of a head
    let threads = (head_dim / WIDE).next_power_of_two();
    let at_once = THREADS / threads * AT_ONCE;
    let splits = ENOUGH_BLOCKS.div_ceil(heads).min(sizes.keys().div_ceil(at_once));
    let each = sizes.keys().div_ceil(splits);
    let splits = sizes.keys().div_ceil(each);
    let parts = cuda::empty((heads, splits, 2 + head_dim), DType::F32, device)?;
    Kernel::new(device, MODULE, &format!("decode{threads}"), inputs.dtype())?
        .rows(&q)?
        .rows(&present)?
        .maybe_rows(inputs.past.as_ref())?
        .tensor(&parts)?
        .int(sizes.past)?
        .int(sizes.heads)?
        .int(head_dim)?
        .int(splits)?
        .int(each)?
        .float(inputs.scale())
        .launch(
            heads * splits,
            THREADS,
            THREADS / threads * (2 + head_dim) * size_of::<f32>(),
        )?;
    let out = cuda::empty(q.shape(), q.dtype(), device)?;
    let logs = cuda::empty((sizes.sequences, sizes.heads, 1), DType::F32, device)?;
    Kernel::new(device, MODULE, "decode_join", inputs.dtype())?
        .tensor(&parts)?
        .tensor(&out)?
        .tensor(&logs)?
        .int(head_dim)?
        .int(splits)?
        .launch(heads, head_dim, 0)?;
    Ok((out, present, logs))
}
