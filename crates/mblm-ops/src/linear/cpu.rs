//! Matrix products straight into the result or the gradient buffer.
//!
//! Decoding has a row per stream, too few for a product that rearranges its operands: it reads a weight that was rearranged
//! once ([`Panels`]). What a row then gives does not depend on how many there are.

use std::mem::MaybeUninit;

use candle_core::{D, Result, Tensor};

use crate::GradBuffer;
use crate::cpu::bf16;
use crate::cpu::{
    Panels, Real, Slice, Stored, add_assign, from_vec, new_product, par_new, par_reduce, product, threads,
    with_slice_mut, zeros,
};

/// Rows that one task of the bias loops takes.
const ROWS: usize = 256;
/// Most rows that read a packed weight.
const FEW_ROWS: usize = 32;
/// Fewest multiplications of a task of such a product.
const FEW_ROWS_WORK: usize = 1 << 15;

pub(super) fn forward<T: Real>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    let (xs, ws) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?);
    let bias = bias.map(Slice::<T>::new).transpose()?;
    let (x_rows, weight) = ((&xs[..], inputs, 1), (&ws[..], 1, inputs));
    let y = new_product(bias.as_deref(), (rows, outputs, inputs), x_rows, weight);
    with_last_dimension(y, x, outputs)
}

/// `y` in the shape of `x` with another last dimension.
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
    let (x_rows, weight) = ((&xs[..], inputs, 1), (&ws[..], 1, inputs));
    let y = bf16::product(bias.as_deref(), (rows, outputs, inputs), x_rows, weight);
    with_last_dimension(y, x, outputs)
}

/// The weight, of T, for [`forward_packed`]; `None` where not all elements can lie as S.
pub(super) fn pack<T: Real, S: Stored<T>>(weight: &Tensor) -> Result<Option<Panels<S>>> {
    let (_, inputs) = weight.dims2()?;
    Ok(Panels::new(&Slice::<T>::new(weight)?, inputs))
}

/// [`forward`] with a packed weight; nothing where there are too many rows for it.
pub(super) fn forward_packed<T: Real, S: Stored<T>>(
    x: &Tensor,
    weight: &Panels<S>,
    bias: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let rows = x.elem_count() / weight.inputs;
    if rows > FEW_ROWS {
        return Ok(None);
    }
    let xs = Slice::<T>::new(x)?;
    let bias = bias.map(Slice::<T>::new).transpose()?;
    let y = few_rows(&xs, weight, bias.as_deref(), rows);
    with_last_dimension(y, x, weight.outputs).map(Some)
}

/// y (rows, outputs) = x (rows, inputs) · Wᵀ + b, with tasks over the panels of W.
fn few_rows<T: Real, S: Stored<T>>(x: &[T], weight: &Panels<S>, bias: Option<&[T]>, rows: usize) -> Vec<T> {
    let outputs = weight.outputs;
    if outputs * rows == 0 {
        return Vec::new();
    }
    let count = (FEW_ROWS_WORK / (weight.inputs * rows * weight.outputs_of(0, 1).len()))
        .max(weight.len().div_ceil(threads()))
        .max(1);
    let len = weight.outputs_of(0, count).len();
    let product = |index: usize, piece: &mut [MaybeUninit<T>]| {
        let first = index * count;
        let count = count.min(weight.len() - first);
        let outputs = weight.outputs_of(first, count);
        let piece = weight.multiply(piece, x, first, count);
        if let Some(bias) = bias {
            for row in piece.chunks_exact_mut(outputs.len()) {
                add_assign(row, &bias[outputs.clone()]);
            }
        }
    };
    // SAFETY: the product of a piece's panels is all of the piece.
    let pieces = unsafe { par_new(outputs * rows, len * rows, product) }; // piece after piece (rows, outputs of the piece)
    if rows == 1 || len >= outputs {
        return pieces;
    }
    let mut y = zeros(rows * outputs);
    for (index, piece) in pieces.chunks(len * rows).enumerate() {
        let count = piece.len() / rows;
        for (row, values) in piece.chunks_exact(count).enumerate() {
            y[row * outputs + index * len..][..count].copy_from_slice(values);
        }
    }
    y
}

/// [`backward`] with all that is multiplied rounded to bfloat16.
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
    let (dy_rows, dy_columns) = ((&dys[..], outputs, 1), (&dys[..], 1, outputs));
    let (sizes, weight) = ((rows, inputs, outputs), (&ws[..], inputs, 1));
    let dx = match sum {
        Some(sum) => {
            with_slice_mut(&sum, |sum| bf16::add_product(sum, sizes, dy_rows, weight))?;
            sum
        }
        None => from_vec(bf16::product(None, sizes, dy_rows, weight), x.dims())?,
    };
    d_weight.update_on_cpu(|dw: &mut [f32]| {
        bf16::add_product(dw, (outputs, inputs, rows), dy_columns, (&xs, inputs, 1));
    })?;
    add_bias_gradient(&dys, outputs, d_bias)?;
    Ok(dx)
}

/// The rows of `x`, of which `dy` must have a gradient each.
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
    let (sizes, dy_rows, weight) = ((rows, inputs, outputs), (&dys[..], outputs, 1), (&ws[..], inputs, 1));
    let dx = match sum {
        Some(sum) => {
            with_slice_mut(&sum, |sum| product((sum, inputs), true, sizes, dy_rows, weight, true))?;
            sum
        }
        None => from_vec(new_product(None, sizes, dy_rows, weight), x.dims())?,
    };
    d_weight.update_on_cpu(|dw: &mut [T]| {
        product(
            (dw, inputs),
            true,
            (outputs, inputs, rows),
            (&dys, 1, outputs),
            (&xs, inputs, 1),
            true,
        );
    })?;
    add_bias_gradient(&dys, outputs, d_bias)?;
    Ok(dx)
}
