//! The CPU kernels: value, both means and gradient are read once and written once, in pieces.

use candle_core::{Result, Tensor, WithDType};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{Factors, Parameter, Sums};
use crate::cpu::{Real, Slice, par_rows, with_slice_mut};

/// Elements per task of the sums.
const PIECE: usize = 65_536;

/// Independent partial sums: two vector registers of 8 `f64`.
const LANES: usize = 16;

/// Σ x and Σ x² in `f64`, in a fixed order.
pub(super) fn sums<T: Real>(x: &Tensor) -> Result<Sums> {
    let xs = Slice::<T>::new(x)?;
    let xs: &[T] = &xs;
    let partials: Vec<Sums> = xs.par_chunks(PIECE).map(sums_of_piece).collect();
    Ok(Sums {
        plain: partials.iter().map(|part| part.plain).sum(),
        squares: partials.iter().map(|part| part.squares).sum(),
    })
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn sums_of_piece<T: Real>(x: &[T]) -> Sums {
    let (mut plain, mut squares) = ([0f64; LANES], [0f64; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for lane in 0..LANES {
            let x = WithDType::to_f64(x[lane]);
            plain[lane] += x;
            squares[lane] += x * x;
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        let x = WithDType::to_f64(*x);
        plain[lane] += x;
        squares[lane] += x * x;
    }
    Sums {
        plain: plain.into_iter().sum(),
        squares: squares.into_iter().sum(),
    }
}

/// One step of one parameter, whose tensors must not share memory.
pub(super) fn step<T: Real>(factors: &Factors, parameter: &Parameter<'_>) -> Result<()> {
    let gradient = Slice::<T>::new(parameter.gradient.tensor())?;
    let gradient: &[T] = &gradient;
    with_slice_mut(parameter.value, |value: &mut [T]| {
        with_slice_mut(parameter.m, |m: &mut [T]| {
            with_slice_mut(parameter.v, |v: &mut [T]| {
                let tables = [(value, 1), (m, 1), (v, 1)];
                par_rows(gradient.len(), tables, &mut [], |range, parts, _| {
                    update(factors, &gradient[range], parts);
                });
            })
        })
    })??
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn update<T: Real>(factors: &Factors, gradient: &[T], [value, m, v]: [&mut [T]; 3]) {
    let (beta1, beta2, eps) = (T::of(factors.beta1), T::of(factors.beta2), T::of(factors.eps));
    let (rest1, rest2) = (T::of(1.0 - factors.beta1), T::of(1.0 - factors.beta2));
    let (keep, rate, root) = (T::of(factors.keep), T::of(factors.rate), T::of(factors.root));
    let gradient_scale = T::of(factors.gradient_scale);
    for (((gradient, value), m), v) in gradient.iter().zip(value).zip(m).zip(v) {
        let g = *gradient * gradient_scale;
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * (g * g);
        *value = keep * *value - rate * *m / (v.sqrt() * root + eps);
    }
}
