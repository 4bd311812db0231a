//! Matrix products straight into the result or the gradient buffer.

use candle_core::{D, Result, Tensor};

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_reduce, product};

/// Rows that one task of the bias loops takes.
const ROWS: usize = 256;

pub(super) fn forward<T: Real>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    let mut y = vec![T::zero(); rows * outputs];
    let (xs, ws) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?);
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
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = outputs;
    from_vec(y, shape)
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
