//! The CUDA kernels. The backward pass needs 32 channels of the vocabulary in a block's shared
//! memory.
//!
//! In bf16 the backward pass is a product, d_table += Oᵀ dy, where row i of O (ids, V) is 1 at
//! ids\[i\] and 0 elsewhere: exact, and in a fraction of the time of sums by id. O is made for a
//! piece of the ids at a time.

use candle_core::{DType, Result, Tensor};

use crate::GradBuffer;
use crate::cuda::{self, Kernel, Matrix, Module, product};

const MODULE: Module = module!(EMBEDDING);

/// Ids for which O is made at once.
const PIECE: usize = 1 << 16;
/// Channels of a block of the backward pass.
const STRIP: usize = 32;
/// Largest vocabulary of the backward pass: 160 KiB of shared memory.
const MAX_ROWS: usize = 1280;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: usize = 132 * 6;

/// Whether the backward pass supports a vocabulary of this size.
pub(super) fn takes(vocabulary: usize) -> bool {
    vocabulary <= MAX_ROWS
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
    let frozen = frozen.map_or(vocabulary, |id| (id as usize).min(vocabulary));
    if dy.dtype() == DType::BF16 {
        let (ids, dy) = (ids.flatten_all()?, dy.reshape((count, d))?);
        for first in (0..count).step_by(PIECE) {
            let len = PIECE.min(count - first);
            let ones = one_hot(&ids.narrow(0, first, len)?, vocabulary, frozen)?;
            product(
                dy.device(),
                Matrix::of_rows(&ones)?.t(),
                Matrix::of_rows(&dy.narrow(0, first, len)?)?,
                Matrix::of(d_table.touch(), d)?,
                1.0,
            )?;
        }
        return Ok(());
    }
    let strips = d.div_ceil(STRIP);
    // runs are long enough that their sums cost less than their elements
    let runs = ENOUGH_BLOCKS
        .div_ceil(strips)
        .min(count.div_ceil(4 * vocabulary))
        .max(1);
    let run = count.div_ceil(runs);
    let runs = count.div_ceil(run);
    let partial = cuda::empty((runs, vocabulary * d), DType::F32, dy.device())?;
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
    cuda::add_columns(&partial, d_table.touch())
}

/// The matrix O (ids, V) of `ids`; ids outside the table and the frozen id give rows of zeros.
fn one_hot(ids: &Tensor, vocabulary: usize, frozen: usize) -> Result<Tensor> {
    let count = ids.elem_count();
    let ones = cuda::with_row_stride(&cuda::empty_rows(&[count], vocabulary, DType::BF16, ids.device())?)?;
    let (_, width) = ones;
    Kernel::untyped(ids.device(), MODULE, "one_hot")?
        .tensor(ids)?
        .strided(&ones)?
        .int(count)?
        .int(vocabulary)?
        .int(width)?
        .int(frozen)?
        .launch(cuda::blocks(count * (width / 8), 256), 256, 0)?;
    Ok(ones.0)
}
