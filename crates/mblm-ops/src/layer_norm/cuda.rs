//! The kernels for CUDA devices.

use candle_core::{DType, Result, Tensor};

use super::Saved;
use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module, RowBlocks};

const MODULE: Module = module!(LAYER_NORM);

/// Threads of a block for rows of `d` channels.
fn threads(d: usize) -> usize {
    d.div_ceil(8).next_multiple_of(32).min(1024)
}

pub(super) fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, Saved)> {
    let d = weight.dims1()?;
    let x = x.contiguous()?;
    let work = RowBlocks::new(&x, d, &[&x])?;
    let y = cuda::empty_like(&x)?;
    let mean = cuda::empty(work.rows, DType::F32, x.device())?;
    let factor = cuda::empty(work.rows, DType::F32, x.device())?;
    if work.rows > 0 {
        Kernel::new(x.device(), MODULE, &work.name("layer_norm_forward"), x.dtype())?
            .tensor(&x)?
            .tensor(weight)?
            .tensor(bias)?
            .tensor(&y)?
            .tensor(&mean)?
            .tensor(&factor)?
            .int(d)?
            .launch(work.rows, threads(d), 0)?;
    }
    let moments = Some((mean, factor));
    Ok((y, Saved { moments }))
}

pub(super) fn backward(
    x: &Tensor,
    weight: &Tensor,
    (mean, factor): &(Tensor, Tensor),
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: &mut GradBuffer,
) -> Result<Tensor> {
    let d = weight.dims1()?;
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let work = RowBlocks::new(&x, d, &[&x, &dy])?;
    let dx = cuda::empty_like(&x)?;
    if work.rows == 0 {
        return Ok(dx);
    }
    Kernel::new(x.device(), MODULE, &work.name("layer_norm_backward"), x.dtype())?
        .tensor(&x)?
        .tensor(weight)?
        .tensor(mean)?
        .tensor(factor)?
        .tensor(&dy)?
        .tensor(&dx)?
        .int(d)?
        .launch(work.rows, threads(d), 0)?;
    let partial = || cuda::empty((work.blocks(), d), DType::F32, x.device());
    let (of_weight, of_bias) = (partial()?, partial()?);
    Kernel::new(x.device(), MODULE, &work.name("layer_norm_parameters"), x.dtype())?
        .tensor(&x)?
        .tensor(mean)?
        .tensor(factor)?
        .tensor(&dy)?
        .tensor(&of_weight)?
        .tensor(&of_bias)?
        .int(work.rows)?
        .int(d)?
        .int(work.per_block)?
        .launch(work.grid(), work.threads(), 0)?;
    cuda::add_columns(&of_weight, d_weight.touch())?;
    cuda::add_columns(&of_bias, d_bias.touch())?;
    Ok(dx)
}
