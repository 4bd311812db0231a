//! Matrix products straight into the result or the gradient buffer.
//!
//! Decoding has a row per stream, too few for a packed product: it then costs one reading of the weights, so a few rows of
//! the weight at a time are multiplied with a few rows of the input. What a row gives does not depend on how many there are.

use candle_core::{D, Result, Tensor};
use multiversion::multiversion;

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_reduce, product, threads};

/// Rows that one task of the bias loops takes.
const ROWS: usize = 256;
/// Most rows that are multiplied without packing.
const FEW_ROWS: usize = 32;
/// Fewest multiplications of a task of such a product.
const FEW_ROWS_WORK: usize = 1 << 15;
/// Elements of a row that are multiplied together.
const LANES: usize = 8;

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
    let mut columns = vec![T::zero(); outputs * rows]; // (outputs, rows)
    if columns.is_empty() {
        return columns;
    }
    let piece = (FEW_ROWS_WORK / (inputs * rows))
        .max(outputs.div_ceil(threads()))
        .max(1);
    par_chunks(&mut columns, piece * rows, |index, columns| {
        let first = index * piece;
        let count = columns.len() / rows;
        let weight = &weight[first * inputs..(first + count) * inputs];
        dot_all(x, weight, inputs, columns);
        if let Some(bias) = bias {
            for (column, bias) in columns.chunks_exact_mut(rows).zip(&bias[first..]) {
                column.iter_mut().for_each(|y| *y += *bias);
            }
        }
    });
    if rows == 1 {
        return columns;
    }
    let mut y = vec![T::zero(); rows * outputs];
    for (output, column) in columns.chunks_exact(rows).enumerate() {
        for (row, value) in column.iter().enumerate() {
            y[row * outputs + output] = *value;
        }
    }
    y
}

/// The products of every row of `weight` with every row of `x`, (rows of weight, rows of x).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn dot_all<T: Real>(x: &[T], weight: &[T], inputs: usize, out: &mut [T]) {
    if multiversion::target::target_cfg_f!(target_feature = "fma") {
        tiles::<T, true>(x, weight, inputs, out);
    } else {
        tiles::<T, false>(x, weight, inputs, out);
    }
}

#[inline(always)]
fn tiles<T: Real, const FMA: bool>(x: &[T], weight: &[T], inputs: usize, out: &mut [T]) {
    let rows = x.len() / inputs;
    let mut outputs = weight.chunks(4 * inputs).zip(out.chunks_mut(4 * rows));
    for (weight, out) in &mut outputs {
        let whole = weight.len() == 4 * inputs;
        let mut row = 0;
        while row < rows {
            let x = &x[row * inputs..];
            let left = rows - row;
            row += match (whole, left) {
                (true, 2..) => tile::<T, FMA, 4, 2>(x, weight, inputs, &mut out[row..], rows),
                (true, _) => tile::<T, FMA, 4, 1>(x, weight, inputs, &mut out[row..], rows),
                (false, _) => {
                    for (index, weight) in weight.chunks_exact(inputs).enumerate() {
                        tile::<T, FMA, 1, 1>(x, weight, inputs, &mut out[index * rows + row..], rows);
                    }
                    1
                }
            };
        }
    }
}

/// `W` rows of the weight times `X` rows of the input, each product summed in the same order whatever the tile's size; gives `X`.
#[inline(always)]
fn tile<T: Real, const FMA: bool, const W: usize, const X: usize>(
    x: &[T],
    weight: &[T],
    inputs: usize,
    out: &mut [T],
    rows: usize,
) -> usize {
    let x: [&[T]; X] = std::array::from_fn(|row| &x[row * inputs..][..inputs]);
    let weight: [&[T]; W] = std::array::from_fn(|row| &weight[row * inputs..][..inputs]);
    let mut sums = [[[T::zero(); LANES]; X]; W];
    let whole = inputs / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for w in 0..W {
            let a = &weight[w][start..start + LANES];
            for r in 0..X {
                let b = &x[r][start..start + LANES];
                for lane in 0..LANES {
                    let sum = &mut sums[w][r][lane];
                    *sum = match FMA {
                        true => a[lane].mul_add(b[lane], *sum),
                        false => a[lane] * b[lane] + *sum,
                    };
                }
            }
        }
    }
    for w in 0..W {
        for r in 0..X {
            let mut lanes = sums[w][r];
            let mut width = LANES / 2;
            while width > 0 {
                for lane in 0..width {
                    lanes[lane] += lanes[lane + width];
                }
                width /= 2;
            }
            for index in whole..inputs {
                lanes[0] += weight[w][index] * x[r][index];
            }
            out[w * rows + r] = lanes[0];
        }
    }
    X
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
