//! Arithmetic on slices that the compiler vectorizes, with sums in a fixed order.
//!
//! A sum has one partial sum per vector lane. Leftover elements are added to the total of the
//! lanes, or, in [`dots`], to the first lanes.

use multiversion::multiversion;

use crate::real::Real;

/// Partial sums of the reductions below: enough to fill a vector register of 16 `f32`.
const LANES: usize = 16;

/// `to[i] += from[i]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn add_assign<T: Real>(to: &mut [T], from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += *from;
    }
}

/// `to[i] += factor · from[i]`.
#[inline(always)]
pub fn axpy<T: Real>(to: &mut [T], factor: T, from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * *from;
    }
}

/// `Σ a[i]·b[i]`, in a fixed order.
///
/// ```
/// assert_eq!(mblm_gemm::dot(&[1.0, 2.0], &[3.0, 4.0]), 11.0);
/// ```
#[inline(always)]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        total += *a * *b;
    }
    total
}

/// `Σ a[i]·b[i]·c[i]`, in a fixed order.
#[inline(always)]
pub fn dot3<T: Real>(a: &[T], b: &[T], c: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane] * c[lane];
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for ((a, b), c) in a_rest.iter().zip(b_rest).zip(c_rest) {
        total += *a * *b * *c;
    }
    total
}

/// `out[j] = x · row j`, where row j begins at element `j · stride` of `rows`.
///
/// The order of each sum does not depend on the number of rows.
#[inline(always)]
pub fn dots<T: Real>(out: &mut [T], x: &[T], rows: &[T], stride: usize) {
    dots_of_rows(out, (x, 0), (rows, stride), x.len());
}

/// `out[j] = x_j · row j` for consecutive vectors of `len` elements, summed as in [`dots`].
#[inline(always)]
pub fn dots_of_pairs<T: Real>(out: &mut [T], x: &[T], rows: &[T], len: usize) {
    dots_of_rows(out, (x, len), (rows, len), len);
}

/// Two loops, each of which vectorizes: the lanes of a group of rows, then the sums over lanes.
#[inline(always)]
fn dots_of_rows<T: Real>(out: &mut [T], (x, x_stride): (&[T], usize), (rows, stride): (&[T], usize), len: usize) {
    const GROUP: usize = 8;
    let mut sums = [[T::zero(); LANES]; GROUP];
    for (group, out) in out.chunks_mut(GROUP).enumerate() {
        for (index, sums) in sums[..out.len()].iter_mut().enumerate() {
            let index = group * GROUP + index;
            let (x_chunks, x_rest) = x[index * x_stride..][..len].as_chunks::<LANES>();
            let (row_chunks, row_rest) = rows[index * stride..][..len].as_chunks::<LANES>();
            let mut lanes = [T::zero(); LANES];
            for (x, row) in x_chunks.iter().zip(row_chunks) {
                for lane in 0..LANES {
                    lanes[lane] += x[lane] * row[lane];
                }
            }
            add_rest(&mut lanes, x_rest, row_rest);
            *sums = lanes;
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            *out = sum_of_lanes(*sums);
        }
    }
}

#[inline(always)]
fn add_rest<T: Real>(lanes: &mut [T; LANES], x: &[T], row: &[T]) {
    for (lane, (x, row)) in lanes.iter_mut().zip(x.iter().zip(row)) {
        *lane += *x * *row;
    }
}

/// The sum of the lanes, added in halves.
#[inline(always)]
fn sum_of_lanes<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ a[i]`, in a fixed order.
#[inline(always)]
pub fn sum<T: Real>(a: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for lane in 0..LANES {
            lanes[lane] += a[lane];
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for a in rest {
        total += *a;
    }
    total
}

/// Prefetches `data` into the caches; does nothing on processors without a prefetch instruction.
///
/// Meant for rows that the hardware prefetcher misses: it stops at every page boundary.
#[inline(always)]
pub fn prefetch<T>(data: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in data.chunks((64 / size_of::<T>().clamp(1, 64)).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults nowhere; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = data;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_cover_every_element() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let a: Vec<f64> = (0..len).map(|i| i as f64).collect();
            assert_eq!(sum(&a), (len * len.saturating_sub(1) / 2) as f64);
            assert_eq!(dot(&a, &a), a.iter().map(|x| x * x).sum::<f64>());
        }
    }

    #[test]
    fn the_product_of_three_covers_every_element() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let a: Vec<f64> = (0..len).map(|i| i as f64).collect();
            assert_eq!(dot3(&a, &a, &a), a.iter().map(|x| x * x * x).sum::<f64>());
        }
    }
}
