//! Matrix products through `gemm`, straight into the result or the gradient buffer.

use candle_core::{D, Result, Tensor};

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_reduce, threads};

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
        &mut y,
        accumulate,
        (rows, outputs, inputs),
        (&xs, inputs, 1),
        (&ws, 1, inputs),
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
        &mut dx,
        false,
        (rows, inputs, outputs),
        (&dys, outputs, 1),
        (&ws, inputs, 1),
    );
    d_weight.update_on_cpu(|dw: &mut [T]| {
        product(dw, true, (outputs, inputs, rows), (&dys, 1, outputs), (&xs, inputs, 1));
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

/// out (m, n) = [out +] a (m, k) · b (k, n); `a` and `b` as (data, row stride, column stride), `out` row-major.
fn product<T: Real>(
    out: &mut [T],
    accumulate: bool,
    (m, n, k): (usize, usize, usize),
    (a, a_row, a_column): (&[T], usize, usize),
    (b, b_row, b_column): (&[T], usize, usize),
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(T::zero());
        }
        return;
    }
    assert!(out.len() >= m * n);
    assert!(a.len() > (m - 1) * a_row + (k - 1) * a_column);
    assert!(b.len() > (k - 1) * b_row + (n - 1) * b_column);
    let parallelism = match threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    // SAFETY: the assertions above keep every element that the strides reach inside its slice, and `out` is borrowed
    // mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}
