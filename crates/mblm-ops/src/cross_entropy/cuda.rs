//! The CUDA kernels. The host does not check targets: a target outside the vocabulary gives NaN.

use candle_core::{DType, Result, Tensor};

use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(CROSS_ENTROPY);

/// Rows of a block, one warp each.
const ROWS: usize = 8;

pub(super) fn losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (rows, vocabulary) = logits.dims2()?;
    let (logits, targets) = (cuda::with_row_stride(logits)?, targets.contiguous()?);
    let losses = cuda::empty(rows, logits.0.dtype(), logits.0.device())?;
    Kernel::new(losses.device(), MODULE, "losses_of_rows", losses.dtype())?
        .strided(&logits)?
        .tensor(&targets)?
        .tensor(&losses)?
        .int(rows)?
        .int(vocabulary)?
        .int(logits.1)?
        .launch(cuda::blocks(rows, ROWS), 32 * ROWS, 0)?;
    Ok(losses)
}

pub(super) fn loss_and_gradient(
    logits: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    scale: f64,
) -> Result<(Tensor, Tensor)> {
    let (rows, vocabulary) = logits.dims2()?;
    let device = logits.device();
    let (targets, weights) = (targets.contiguous()?, weights.contiguous()?);
    let d_logits = cuda::with_row_stride(&cuda::empty_rows(&[rows], vocabulary, logits.dtype(), device)?)?;
    let logits = cuda::with_row_stride(logits)?;
    let blocks = cuda::blocks(rows, ROWS);
    let partial = cuda::empty(blocks, DType::F64, device)?;
    Kernel::new(device, MODULE, "cross_entropy", logits.0.dtype())?
        .strided(&logits)?
        .tensor(&targets)?
        .tensor(&weights)?
        .float(scale)
        .strided(&d_logits)?
        .tensor(&partial)?
        .int(rows)?
        .int(vocabulary)?
        .int(logits.1)?
        .int(d_logits.1)?
        .launch(blocks, 32 * ROWS, 0)?;
    let total = cuda::empty((), DType::F64, device)?;
    Kernel::untyped(device, MODULE, "sum_of_blocks")?
        .tensor(&partial)?
        .tensor(&total)?
        .int(blocks)?
        .launch(1, 256, 0)?;
    Ok((total, d_logits.0))
}
