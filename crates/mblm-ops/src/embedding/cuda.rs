//! The kernels for CUDA devices. The backward pass takes vocabularies of which 32 channels fit into a block's shared memory.

use candle_core::{DType, Result, Tensor};

use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(EMBEDDING);

/// Channels of a block of the backward pass.
const STRIP: usize = 32;
/// Largest vocabulary of the backward pass: 160 KiB of shared memory.
const MOST_ROWS: usize = 1280;
/// Blocks that fill a large card.
const ENOUGH_BLOCKS: usize = 132 * 6;

/// Whether the backward pass takes a vocabulary of this size.
pub(super) fn takes(vocabulary: usize) -> bool {
    vocabulary <= MOST_ROWS
}

pub(super) fn forward(ids: &Tensor, table: &Tensor, dtype: DType) -> Result<Tensor> {
    let (vocabulary, d) = table.dims2()?;
    let ids = ids.contiguous()?;
    let shape: Vec<usize> = ids.dims().iter().copied().chain([d]).collect();
    let y = cuda::empty(shape, dtype, table.device())?;
    let width = if d.is_multiple_of(8) { 8 } else { 1 };
    let work = ids.elem_count() * (d / width);
    if work == 0 {
        return Ok(y);
    }
    Kernel::new(table.device(), MODULE, &format!("embedding_forward{width}"), dtype)?
        .tensor(&ids)?
        .tensor(table)?
        .tensor(&y)?
        .long(ids.elem_count())
        .int(vocabulary)?
        .int(d)?
        .launch(cuda::blocks(work, 256).min(1 << 16), 256, 0)?;
    Ok(y)
}

pub(super) fn backward(ids: &Tensor, dy: &Tensor, d_table: &mut GradBuffer, frozen: Option<u32>) -> Result<()> {
    let (vocabulary, d) = d_table.tensor().dims2()?;
    let (ids, dy) = (ids.contiguous()?, dy.contiguous()?);
    let count = ids.elem_count();
    if count == 0 || d == 0 {
        d_table.touch();
        return Ok(());
    }
    let strips = d.div_ceil(STRIP);
    // runs are long enough that the sums cost less than what is summed
    let runs = ENOUGH_BLOCKS
        .div_ceil(strips)
        .min(count.div_ceil(4 * vocabulary))
        .max(1);
    let run = count.div_ceil(runs);
    let runs = count.div_ceil(run);
    let partial = cuda::empty((runs, vocabulary * d), DType::F32, dy.device())?;
    let frozen = frozen.map_or(vocabulary, |id| (id as usize).min(vocabulary));
    Kernel::new(dy.device(), MODULE, "embedding_backward", dy.dtype())?
        .tensor(&ids)?
        .tensor(&dy)?
        .tensor(&partial)?
        .long(count)
        .int(vocabulary)?
        .int(d)?
        .long(run)
        .int(frozen)?
        .launch((strips, runs), STRIP, vocabulary * STRIP * size_of::<f32>())?;
    cuda::add_columns(&partial, d_table)
}
