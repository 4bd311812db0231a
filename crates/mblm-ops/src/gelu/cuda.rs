//! The kernels for CUDA devices.

use candle_core::{D, DType, Result, Tensor};

use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module, RowBlocks};

const MODULE: Module = module!(GELU);

pub(super) fn forward(x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let x = x.contiguous()?;
    let y = cuda::empty_like(&x)?;
    let work = RowBlocks::new(&x, d, &[&x])?;
    Kernel::new(x.device(), MODULE, &work.name("gelu_forward"), x.dtype())?
        .tensor(&x)?
        .maybe(bias)?
        .tensor(&y)?
        .int(work.rows)?
        .int(d)?
        .int(work.per_block)?
        .launch(work.grid(), work.threads(), 0)?;
    Ok(y)
}

pub(super) fn backward(
    x: &Tensor,
    bias: Option<&Tensor>,
    dy: &Tensor,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let dx = cuda::empty_like(&x)?;
    let work = RowBlocks::new(&x, d, &[&x, &dy])?;
    let partial = match &d_bias {
        Some(_) => Some(cuda::empty((work.blocks(), d), DType::F32, x.device())?),
        None => None,
    };
    Kernel::new(x.device(), MODULE, &work.name("gelu_backward"), x.dtype())?
        .tensor(&x)?
        .maybe(bias)?
        .tensor(&dy)?
        .tensor(&dx)?
        .maybe(partial.as_ref())?
        .int(work.rows)?
        .int(d)?
        .int(work.per_block)?
        .launch(work.grid(), work.threads(), 0)?;
    if let (Some(partial), Some(d_bias)) = (partial, d_bias) {
        cuda::add_columns(&partial, d_bias.touch())?;
    }
    Ok(dx)
}
