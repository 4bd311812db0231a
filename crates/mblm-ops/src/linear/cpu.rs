//! Matrix products straight into the result or the gradient buffer.
//!
//! Decoding has a row per stream, too few for a packed product: it then costs one reading of the weights, in pieces
//! that all rows of the input are multiplied with. What a row gives does not depend on how many there are.

use candle_core::{D, Result, Tensor};
use multiversion::multiversion;

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, dots, dots_of_four, from_vec, par_chunks, par_reduce, product, threads};

/// Rows that one task of the bias loops takes.
const ROWS: usize = 256;
/// Most rows that are multiplied without packing.
const FEW_ROWS: usize = 32;
/// Elements of the weight that all rows meet one after another.
const BLOCK: usize = 1 << 13;
/// Fewest multiplications of a task of such a product.
const FEW_ROWS_WORK: usize = 1 << 15;

pub(super) fn forward<T: Real>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    let (xs, ws) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?);
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = outputs;
    if rows <= FEW_ROWS {
        let bias = bias.map(Slice::<T>::new).transpose()?;
        return from_vec(few_rows(&xs, &ws, bias.as_deref(), (rows, outputs, inputs)), shape);
    }
    let mut y = vec![T::zero(); rows * outputs];
    if let Some(bias) = bias {
        let bias = Slice::<T>::new(bias)?;
        par_chunks(&mut y, ROWS * outputs, |_, rows| {
            for row in rows.chunks_exact_mut(outputs) {
                row.copy_from_slice(&bias);
            }
        });
    }
    let accumulate = bias.is_some();
    product(
        (&mut y, outputs),
        accumulate,
        (rows, outputs, inputs),
        (&xs, inputs, 1),
        (&ws, 1, inputs),
        true,
    );
    from_vec(y, shape)
}

/// y (rows, outputs) = x (rows, inputs) · Wᵀ + b, with tasks over the rows of W.
fn few_rows<T: Real>(
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    (rows, outputs, inputs): (usize, usize, usize),
) -> Vec<T> {
    let mut pieces = vec![T::zero(); outputs * rows]; // piece after piece (rows, outputs of the piece)
    if pieces.is_empty() {
        return pieces;
    }
    let len = (FEW_ROWS_WORK / (inputs * rows))
        .max(outputs.div_ceil(threads()))
        .max(1);
    par_chunks(&mut pieces, len * rows, |index, piece| {
        let (first, count) = (index * len, piece.len() / rows);
        products(x, &weight[first * inputs..(first + count) * inputs], inputs, piece);
        if let Some(bias) = bias {
            for row in piece.chunks_exact_mut(count) {
                add_assign(row, &bias[first..first + count]);
            }
        }
    });
    if rows == 1 || len >= outputs {
        return pieces;
    }
    let mut y = vec![T::zero(); rows * outputs];
    for (index, piece) in pieces.chunks(len * rows).enumerate() {
        let count = piece.len() / rows;
        for (row, values) in piece.chunks_exact(count).enumerate() {
            y[row * outputs + index * len..][..count].copy_from_slice(values);
        }
    }
    y
}

/// The products of every row of `x` with every row of `weight`, (rows of x, rows of weight).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn products<T: Real>(x: &[T], weight: &[T], inputs: usize, out: &mut [T]) {
    let outputs = weight.len() / inputs;
    // rows of the weight that stay in the core's cache while all rows of `x` meet them
    let block = match x.len() / inputs {
        1 => outputs,
        _ => (BLOCK / inputs).max(1),
    };
    for first in (0..outputs).step_by(block) {
        let count = block.min(outputs - first);
        let weight = &weight[first * inputs..][..count * inputs];
        for (x, out) in x.chunks_exact(4 * inputs).zip(out.chunks_exact_mut(4 * outputs)) {
            let x = std::array::from_fn(|row| &x[row * inputs..][..inputs]);
            let (out_ab, out_cd) = out.split_at_mut(2 * outputs);
            let ((out_a, out_b), (out_c, out_d)) = (out_ab.split_at_mut(outputs), out_cd.split_at_mut(outputs));
            let out = [out_a, out_b, out_c, out_d].map(|out| &mut out[first..][..count]);
            dots_of_four(out, x, weight, inputs);
        }
        let done = x.len() / (4 * inputs) * 4;
        let rest = x[done * inputs..].chunks_exact(inputs);
        for (x, out) in rest.zip(out[done * outputs..].chunks_exact_mut(outputs)) {
            dots(&mut out[first..][..count], x, weight, inputs);
        }
    }
}

pub(super) fn backward<T: Real>(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    if dy.dim(D::Minus1)? != outputs || dy.elem_count() != rows * outputs {
        candle_core::bail!("linear: a gradient of {:?} for an input of {:?}", dy.dims(), x.dims());
    }
    let (xs, ws, dys) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?, Slice::<T>::new(dy)?);
    let mut dx = vec![T::zero(); rows * inputs];
    product(
        (&mut dx, inputs),
        false,
        (rows, inputs, outputs),
        (&dys, outputs, 1),
        (&ws, inputs, 1),
        true,
    );
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
    if let Some(d_bias) = d_bias {
        d_bias.update_on_cpu(|db: &mut [T]| {
            par_reduce(rows, ROWS, db, |range, db| {
                for row in dys[range.start * outputs..range.end * outputs].chunks_exact(outputs) {
                    add_assign(db, row);
                }
            });
        })?;
    }
    from_vec(dx, x.dims())
}
