//! The CPU kernels, one row at a time while it is in the cache: mean, variance, result.
//!
//! The variance is computed about the mean.

use std::ops::Range;

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::Saved;
use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, dot, from_vec, par_new_rows, sum};

pub(super) fn forward<T: Real>(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, Saved)> {
    let d = weight.dims1()?;
    let rows = x.elem_count() / d;
    let (xs, weights, biases) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?, Slice::<T>::new(bias)?);
    let (xs, weights, biases): (&[T], &[T], &[T]) = (&xs, &weights, &biases);
    let [y, mean, scale] = par_new_rows(rows, [d, 1, 1], &mut [], |rows, parts, _| {
        forward_rows(&xs[rows.start * d..rows.end * d], weights, biases, parts);
    });
    let moments = Some((from_vec(mean, rows)?, from_vec(scale, rows)?));
    Ok((from_vec(y, x.dims())?, Saved { moments }))
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn forward_rows<T: Real>(x: &[T], weight: &[T], bias: &[T], [y, mean, scale]: [&mut [T]; 3]) {
    let d = weight.len();
    let count = T::of(d as f64);
    for (((x, y), to_mean), scale) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(mean).zip(scale) {
        let mean = sum(x) / count;
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x - mean;
        }
        let f = T::one() / (dot(y, y) / count + T::of(1e-5)).sqrt();
        (*to_mean, *scale) = (mean, f);
        for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
            *y = *y * f * *weight + *bias;
        }
    }
}

pub(super) fn backward<T: Real>(
    x: &Tensor,
    weight: &Tensor,
    (mean, scale): &(Tensor, Tensor),
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: &mut GradBuffer,
) -> Result<Tensor> {
    let d = weight.dims1()?;
    let rows = x.elem_count() / d;
    let (xs, weights, dys) = (Slice::<T>::new(x)?, Slice::<T>::new(weight)?, Slice::<T>::new(dy)?);
    let (means, scales) = (Slice::<T>::new(mean)?, Slice::<T>::new(scale)?);
    let input = Input {
        x: &xs,
        weight: &weights,
        mean: &means,
        scale: &scales,
        dy: &dys,
    };
    let mut parameters = vec![T::zero(); 2 * d]; // gradients of [weight | bias]
    let [dx] = par_new_rows(rows, [d], &mut parameters, |rows, [dx], parameters| {
        backward_rows(&input, rows, dx, parameters);
    });
    let (weight, bias) = parameters.split_at(d);
    d_weight.update_on_cpu(|sum| add_assign(sum, weight))?;
    d_bias.update_on_cpu(|sum| add_assign(sum, bias))?;
    from_vec(dx, x.dims())
}

/// The inputs of the backward pass, shared by all pieces.
struct Input<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    mean: &'a [T],
    scale: &'a [T],
    dy: &'a [T],
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn backward_rows<T: Real>(input: &Input<'_, T>, rows: Range<usize>, dx: &mut [T], parameters: &mut [T]) {
    let d = input.weight.len();
    let weight = &input.weight[..d];
    let (d_weight, d_bias) = parameters.split_at_mut(d);
    let mut normed = vec![T::zero(); d];
    for (row, dx) in rows.zip(dx.chunks_exact_mut(d)) {
        let span = row * d..(row + 1) * d;
        let (x, dy) = (&input.x[span.clone()], &input.dy[span]);
        let (mean, f) = (input.mean[row], input.scale[row]);
        let normed = &mut normed[..d];
        for j in 0..d {
            normed[j] = (x[j] - mean) * f;
            dx[j] = weight[j] * dy[j];
            d_weight[j] += dy[j] * normed[j];
            d_bias[j] += dy[j];
        }
        let count = T::of(d as f64);
        let (offset, slope) = (sum(dx) / count, dot(dx, normed) / count);
        for j in 0..d {
            dx[j] = f * (dx[j] - offset - normed[j] * slope);
        }
    }
}
