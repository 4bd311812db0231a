//! The CPU kernels: element by element, one row of biases at a time.
//!
//! The backward pass sums the bias's gradient along the way.

use candle_core::{D, Result, Tensor};
use multiversion::multiversion;

use crate::GradBuffer;
use crate::cpu::{Real, Slice, from_vec, par_new_rows};

/// The bias, or zeros if there is none.
fn bias_or_zeros<T: Real>(bias: Option<&Tensor>, d: usize) -> Result<Vec<T>> {
    match bias {
        Some(bias) => Ok(Slice::<T>::new(bias)?.to_vec()),
        None => Ok(vec![T::zero(); d]),
    }
}

/// Φ(v), the probability that a standard normal variable is below `v`.
#[inline(always)]
fn probability<T: Real>(v: T) -> T {
    T::of(0.5) * (T::one() + (v * T::of(std::f64::consts::FRAC_1_SQRT_2)).fast_erf())
}

pub(super) fn forward<T: Real>(x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let rows = x.elem_count() / d;
    let bias = bias_or_zeros::<T>(bias, d)?;
    let xs = Slice::<T>::new(x)?;
    let xs: &[T] = &xs;
    let [y] = par_new_rows(rows, [d], &mut [], |rows, [y], _| {
        forward_rows(&xs[rows.start * d..rows.end * d], &bias, y);
    });
    from_vec(y, x.dims())
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn forward_rows<T: Real>(x: &[T], bias: &[T], y: &mut [T]) {
    for (x, y) in x.chunks_exact(bias.len()).zip(y.chunks_exact_mut(bias.len())) {
        for ((y, x), bias) in y.iter_mut().zip(x).zip(bias) {
            let v = *x + *bias;
            *y = v * probability(v);
        }
    }
}

pub(super) fn backward<T: Real>(
    x: &Tensor,
    bias: Option<&Tensor>,
    dy: &Tensor,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let rows = x.elem_count() / d;
    let bias = bias_or_zeros::<T>(bias, d)?;
    let (xs, dys) = (Slice::<T>::new(x)?, Slice::<T>::new(dy)?);
    let (xs, dys): (&[T], &[T]) = (&xs, &dys);
    let gradient = |d_bias: &mut [T]| {
        par_new_rows(rows, [d], d_bias, |rows, [dx], d_bias| {
            let span = rows.start * d..rows.end * d;
            backward_rows(&xs[span.clone()], &bias, &dys[span], dx, d_bias);
        })
    };
    let [dx] = match d_bias {
        Some(d_bias) => d_bias.update_on_cpu(gradient)?,
        None => gradient(&mut []),
    };
    from_vec(dx, x.dims())
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn backward_rows<T: Real>(x: &[T], bias: &[T], dy: &[T], dx: &mut [T], d_bias: &mut [T]) {
    let d = bias.len();
    let density = T::of(1.0 / (2.0 * std::f64::consts::PI).sqrt());
    for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
        for (((dx, x), dy), bias) in dx.iter_mut().zip(x).zip(dy).zip(bias) {
            let v = *x + *bias;
            *dx = *dy * (probability(v) + v * density * (T::of(-0.5) * v * v).fast_exp());
        }
        // without a bias the sum is empty and this loop does nothing
        for (to, dx) in d_bias.iter_mut().zip(dx) {
            *to += *dx;
        }
    }
}
