//! The CPU kernels: matrix products written directly to the result or the gradient buffer.
//!
//! Decoding has one row per stream, too few for a product that packs its operands, so it reads a
//! weight that was packed once ([`PackedB`]). The result of a row does not depend on the number of
//! rows.

use candle_core::{D, Result, Tensor};
use mblm_gemm::bf16;

use crate::GradBuffer;
use crate::cpu::{Beta, Dims, Matrix, MatrixMut, PackedB, Stored, Threads, product, product_into};
use crate::cpu::{Real, Slice, add_assign, from_vec, par_reduce, with_slice_mut};

/// Rows per task of the bias loops.
const ROWS: usize = 256;
/// Most rows for which a packed weight is used.
const MAX_ROWS_OF_PACKED: usize = 32;

pub(super) fn forward<T: Real>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    let (xs, ws) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?);
    let bias = bias.map(Slice::<T>::new).transpose()?;
    let (x_rows, weight) = (Matrix::new(&xs, inputs, 1), Matrix::new(&ws, 1, inputs));
    let y = product(bias.as_deref(), Dims::new(rows, outputs, inputs), x_rows, weight);
    with_last_dimension(y, x, outputs)
}

/// `y` as a tensor with the shape of `x`, except for the last dimension.
fn with_last_dimension<T: Real>(y: Vec<T>, x: &Tensor, outputs: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = outputs;
    from_vec(y, shape)
}

/// [`forward`] with inputs and weight rounded to bfloat16.
pub(super) fn forward_rounded(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    let (xs, ws) = (Slice::<f32>::new(x)?, Slice::<f32>::new(weight)?);
    let bias = bias.map(Slice::<f32>::new).transpose()?;
    let (x_rows, weight) = (Matrix::new(&xs, inputs, 1), Matrix::new(&ws, 1, inputs));
    let y = bf16::product(bias.as_deref(), Dims::new(rows, outputs, inputs), x_rows, weight);
    with_last_dimension(y, x, outputs)
}

/// Packs the weight, of type T, for [`forward_packed`]; `None` if S cannot store all elements.
pub(super) fn pack<T: Real, S: Stored<T>>(weight: &Tensor) -> Result<Option<PackedB<S>>> {
    let (_, inputs) = weight.dims2()?;
    Ok(PackedB::from_transposed(&Slice::<T>::new(weight)?, inputs))
}

/// [`forward`] with a packed weight; `None` if there are too many rows.
pub(super) fn forward_packed<T: Real, S: Stored<T>>(
    x: &Tensor,
    weight: &PackedB<S>,
    bias: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let rows = x.elem_count() / weight.rows();
    if rows > MAX_ROWS_OF_PACKED {
        return Ok(None);
    }
    let xs = Slice::<T>::new(x)?;
    let bias = bias.map(Slice::<T>::new).transpose()?;
    let y = weight.product(&xs, bias.as_deref());
    with_last_dimension(y, x, weight.columns()).map(Some)
}

/// [`backward`] with all operands rounded to bfloat16.
pub(super) fn backward_rounded(
    sum: Option<Tensor>,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = rows_of_gradient(x, weight, dy)?;
    let (xs, ws, dys) = (
        Slice::<f32>::new(x)?,
        Slice::<f32>::new(weight)?,
        Slice::<f32>::new(dy)?,
    );
    let (dy_rows, dy_columns) = (Matrix::new(&dys, outputs, 1), Matrix::new(&dys, 1, outputs));
    let (sizes, weight) = (Dims::new(rows, inputs, outputs), Matrix::new(&ws, inputs, 1));
    let dx = match sum {
        Some(sum) => {
            with_slice_mut(&sum, |sum| bf16::add_product(sum, sizes, dy_rows, weight))?;
            sum
        }
        None => from_vec(bf16::product(None, sizes, dy_rows, weight), x.dims())?,
    };
    d_weight.update_on_cpu(|dw: &mut [f32]| {
        bf16::add_product(
            dw,
            Dims::new(outputs, inputs, rows),
            dy_columns,
            Matrix::new(&xs, inputs, 1),
        );
    })?;
    add_bias_gradient(&dys, outputs, d_bias)?;
    Ok(dx)
}

/// The number of rows of `x`; fails unless `dy` has a gradient for each.
fn rows_of_gradient(x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<usize> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    if dy.dim(D::Minus1)? != outputs || dy.elem_count() != rows * outputs {
        candle_core::bail!("linear: a gradient of {:?} for an input of {:?}", dy.dims(), x.dims());
    }
    Ok(rows)
}

fn add_bias_gradient<T: Real>(dy: &[T], outputs: usize, d_bias: Option<&mut GradBuffer>) -> Result<()> {
    let Some(d_bias) = d_bias else { return Ok(()) };
    d_bias.update_on_cpu(|db: &mut [T]| {
        par_reduce(dy.len() / outputs.max(1), ROWS, db, |range, db| {
            for row in dy[range.start * outputs..range.end * outputs].chunks_exact(outputs) {
                add_assign(db, row);
            }
        });
    })
}

pub(super) fn backward<T: Real>(
    sum: Option<Tensor>,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = rows_of_gradient(x, weight, dy)?;
    let (xs, ws, dys) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?, Slice::<T>::new(dy)?);
    let (sizes, dy_rows, weight) = (
        Dims::new(rows, inputs, outputs),
        Matrix::new(&dys, outputs, 1),
        Matrix::new(&ws, inputs, 1),
    );
    let dx = match sum {
        Some(sum) => {
            with_slice_mut(&sum, |sum| {
                product_into(
                    MatrixMut::new(sum, inputs),
                    Beta::One,
                    sizes,
                    dy_rows,
                    weight,
                    Threads::All,
                )
            })?;
            sum
        }
        None => from_vec(product(None, sizes, dy_rows, weight), x.dims())?,
    };
    d_weight.update_on_cpu(|dw: &mut [T]| {
        product_into(
            MatrixMut::new(dw, inputs),
            Beta::One,
            Dims::new(outputs, inputs, rows),
            Matrix::new(&dys, 1, outputs),
            Matrix::new(&xs, inputs, 1),
            Threads::All,
        );
    })?;
    add_bias_gradient(&dys, outputs, d_bias)?;
    Ok(dx)
}
