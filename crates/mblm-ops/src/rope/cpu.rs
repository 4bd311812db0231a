//! The CPU kernel: the rotation in one pass, one row at a time.

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::angles::Angles;
use crate::cpu::{Real, Slice, from_vec, par_zeroed};

/// Rows per task.
const ROWS: usize = 64;

pub(super) fn forward<T: Real>(x: &Tensor, start: usize, back: bool) -> Result<Tensor> {
    let (_, t, d) = x.dims3()?;
    let angles = Angles::<T>::new(start, t, d);
    let xs = Slice::<T>::new(x)?;
    let xs: &[T] = &xs;
    let direction = if back { -T::one() } else { T::one() };
    let y = par_zeroed(xs.len(), ROWS * d.max(1), |chunk, y| {
        let first = chunk * ROWS;
        for (row, y) in y.chunks_exact_mut(d).enumerate() {
            let x = &xs[(first + row) * d..][..d];
            rotate(y, x, angles.row((first + row) % t), direction);
        }
    });
    from_vec(y, x.dims())
}

/// Rotates one row: (y0, y1) = (x0·cos - x1·sin, x1·cos + x0·sin) for each pair.
///
/// Sines are multiplied by `direction`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn rotate<T: Real>(y: &mut [T], x: &[T], (cos, sin): (&[T], &[T]), direction: T) {
    let (y, _) = y.as_chunks_mut::<2>();
    let (x, _) = x.as_chunks::<2>();
    for ((y, x), (cos, sin)) in y.iter_mut().zip(x).zip(cos.iter().zip(sin)) {
        let sin = *sin * direction;
        *y = [x[0] * *cos - x[1] * sin, x[1] * *cos + x[0] * sin];
    }
}
