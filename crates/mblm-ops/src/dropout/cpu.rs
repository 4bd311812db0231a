//! The CPU kernel: hash, compare, multiply in one pass.
//!
//! Indices are cut where their upper half changes, so the hash is of 32 bits.

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::{Dropout, hash};
use crate::cpu::{Real, Slice, from_vec, par_new_rows};

pub(super) fn apply<T: Real>(x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    let xs = Slice::<T>::new(x)?;
    let xs: &[T] = &xs;
    let [y] = par_new_rows(xs.len(), [1], &mut [], |elements, [y], _| {
        let first = dropout.first.wrapping_add(elements.start as u64);
        fill(dropout, first, &xs[elements], y);
    });
    from_vec(y, x.dims())
}

/// Fills `y` from `x`, whose first element has the index `first`.
fn fill<T: Real>(dropout: &Dropout, mut first: u64, mut x: &[T], mut y: &mut [T]) {
    while !x.is_empty() {
        let low = first as u32;
        let room = usize::try_from((1u64 << 32) - u64::from(low)).unwrap_or(usize::MAX);
        let (now, later) = x.split_at(room.min(x.len()));
        let (to, rest) = std::mem::take(&mut y).split_at_mut(now.len());
        masked(
            dropout.keys(first),
            low,
            dropout.threshold(),
            T::of(dropout.scale()),
            now,
            to,
        );
        (x, y) = (later, rest);
        first = first.wrapping_add(now.len() as u64);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn masked<T: Real>(keys: [u32; 2], low: u32, threshold: u32, scale: T, x: &[T], y: &mut [T]) {
    let mut index = low;
    for (y, x) in y.iter_mut().zip(x) {
        let factor = if hash(keys, index) >= threshold {
            scale
        } else {
            T::zero()
        };
        *y = *x * factor;
        index = index.wrapping_add(1);
    }
}
