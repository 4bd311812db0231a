//! The CUDA kernels: products by cuBLAS, the bias and its gradient by kernels of this crate.
//!
//! Activations and the weight have one type, `f32` or `bf16`; the bias and all sums are `f32`.

use candle_core::{D, Result, Tensor};

use crate::GradBuffer;
use crate::cuda::{self, Kernel, Matrix, Module, RowBlocks, product};

const MODULE: Module = module!(LINEAR);

pub(super) fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let (x, weight) = (x.contiguous()?, same_type(x, weight)?);
    let outer = &x.dims()[..x.rank() - 1];
    let y = cuda::with_row_stride(&cuda::empty_rows(outer, outputs, x.dtype(), x.device())?)?;
    product(
        x.device(),
        Matrix::of(&x, inputs)?,
        Matrix::of(&weight, inputs)?.t(),
        Matrix::of_rows(&y.0)?,
        0.0,
    )?;
    if let Some(bias) = bias {
        let work = RowBlocks::new(&y.0, outputs, &[&y.0])?;
        Kernel::new(x.device(), MODULE, &work.name("add_bias"), x.dtype())?
            .strided(&y)?
            .tensor(bias)?
            .int(work.rows)?
            .int(outputs)?
            .int(y.1)?
            .int(work.per_block)?
            .launch(work.grid(), work.threads(), 0)?;
    }
    Ok(y.0)
}

pub(super) fn backward(
    sum: Option<Tensor>,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let (x, weight) = (x.contiguous()?, same_type(x, weight)?);
    let (dy, _) = cuda::with_row_stride(dy)?;
    if dy.dim(D::Minus1)? != outputs || dy.elem_count() * inputs != x.elem_count() * outputs {
        candle_core::bail!(
            "linear: expected a gradient (…, {outputs}) for {:?}, found {:?}",
            x.dims(),
            dy.dims()
        );
    }
    let beta = if sum.is_some() { 1.0 } else { 0.0 };
    let dx = match sum {
        Some(sum) => sum,
        None => cuda::empty_like(&x)?,
    };
    let (rows_x, rows_dy) = (Matrix::of(&x, inputs)?, Matrix::of_rows(&dy)?);
    product(
        x.device(),
        rows_dy,
        Matrix::of(&weight, inputs)?,
        Matrix::of(&dx, inputs)?,
        beta,
    )?;
    product(
        x.device(),
        rows_dy.t(),
        rows_x,
        Matrix::of(d_weight.touch(), inputs)?,
        1.0,
    )?;
    if let Some(d_bias) = d_bias {
        cuda::add_rows(&dy, d_bias.touch())?;
    }
    Ok(dx)
}

/// The weight in the type of the activations.
fn same_type(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    weight.to_dtype(x.dtype())?.contiguous()
}
