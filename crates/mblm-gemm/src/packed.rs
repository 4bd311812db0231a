//! B packed once, for many products with few rows.
//!
//! ```text
//! y (r, n) = x (r, k) · Wᵀ [+ bias]       W (n, k), packed as B = Wᵀ (k, n) in micro-panels (⌈n / NR⌉, k, NR), the last one
//!                                         filled up with zeros
//! ```
//!
//! A micro-panel holds NR columns of B. One step along k multiplies one vector of each micro-panel
//! by one number of each row of x; the sums of a tile of rows and micro-panels stay in registers
//! from the first step to the last. So each sum runs through k in order, whatever the number of
//! rows, micro-panels and threads.
//!
//! Products with few rows are limited by memory bandwidth. A weight whose elements are all bfloat16
//! numbers is therefore packed as bfloat16 ([`Stored`]): half the bytes, the same values.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use crate::parallel::{par_chunks, par_new, threads, zeros};
use crate::real::Real;
use crate::rounding::widen;
use crate::vector::add_assign;

/// Columns of B in a micro-panel: a vector register of 16 `f32`.
const NR: usize = 16;

/// Most micro-panels of a tile.
const MAX_PANELS: usize = 4;

/// Fewest multiplications of a task.
const MIN_WORK: usize = 1 << 15;

/// A type in which packed elements of T are stored.
pub trait Stored<T>: Copy + Send + Sync {
    /// Zero.
    const ZERO: Self;

    /// `value` as this type; `None` if that would change the number.
    fn exactly(value: T) -> Option<Self>;

    /// The value used in products.
    fn value(self) -> T;
}

macro_rules! stored_as_it_is {
    ($($real:ty)*) => { $(
        impl Stored<$real> for $real {
            const ZERO: Self = 0.0;

            fn exactly(value: $real) -> Option<Self> {
                Some(value)
            }

            #[inline(always)]
            fn value(self) -> $real {
                self
            }
        }
    )* };
}

stored_as_it_is!(f32 f64);

impl Stored<f32> for bf16 {
    const ZERO: Self = Self::ZERO;

    fn exactly(value: f32) -> Option<Self> {
        let bits = value.to_bits();
        (bits & 0xffff == 0).then(|| Self::from_bits((bits >> 16) as u16))
    }

    /// Unlike `half`, this does not branch for signaling NaNs.
    #[inline(always)]
    fn value(self) -> f32 {
        widen(self.to_bits())
    }
}

/// B (k, n), packed in micro-panels whose elements are stored as S.
///
/// ```
/// use mblm_gemm::PackedB;
///
/// let weight = [1.0, 2.0, 3.0, 4.0]; // W (2, 2)
/// let packed = PackedB::<f64>::from_transposed(&weight, 2).expect("every f64 can be stored as f64");
/// assert_eq!(packed.product(&[1.0, 10.0], Some(&[0.5, 0.0])), [21.5, 43.0]); // x (1, 2)
/// ```
#[derive(Debug)]
pub struct PackedB<S> {
    data: Vec<[S; NR]>,
    n: usize,
    k: usize,
}

impl<S> PackedB<S> {
    /// n.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// k; at least 1.
    pub fn rows(&self) -> usize {
        self.k
    }

    /// The number of micro-panels.
    fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// The columns of `count` micro-panels from `first` on.
    fn columns_of(&self, first: usize, count: usize) -> Range<usize> {
        first * NR..((first + count) * NR).min(self.n)
    }

    /// Packs B = Wᵀ of `weight` W (n, k), in row-major order; k is at least 1.
    ///
    /// Returns `None` if S cannot store every element exactly.
    pub fn from_transposed<T: Real>(weight: &[T], k: usize) -> Option<Self>
    where
        S: Stored<T>,
    {
        assert!(
            k > 0 && weight.len().is_multiple_of(k),
            "whole rows of at least one number"
        );
        if !weight.iter().all(|value| S::exactly(*value).is_some()) {
            return None;
        }
        let n = weight.len() / k;
        let mut data = vec![[S::ZERO; NR]; n.div_ceil(NR) * k];
        par_chunks(&mut data, k, |index, panel| {
            for (lane, row) in weight[index * NR * k..].chunks_exact(k).take(NR).enumerate() {
                for (to, value) in panel.iter_mut().zip(row) {
                    to[lane] = S::exactly(*value).unwrap_or(S::ZERO); // all of them can
                }
            }
        });
        Some(Self { data, n, k })
    }

    /// y (r, n) = `x` (r, k) · B + `bias` (n), if given; tasks divide the micro-panels.
    pub fn product<T: Real>(&self, x: &[T], bias: Option<&[T]>) -> Vec<T>
    where
        S: Stored<T>,
    {
        assert!(x.len().is_multiple_of(self.k) && bias.is_none_or(|bias| bias.len() == self.n));
        let rows = x.len() / self.k;
        if self.n * rows == 0 {
            return Vec::new();
        }
        let panels = (MIN_WORK / (self.k * rows * self.columns_of(0, 1).len()))
            .max(self.panels().div_ceil(threads()))
            .max(1);
        let columns = self.columns_of(0, panels).len();
        let write = |index: usize, c: &mut [MaybeUninit<T>]| {
            let first = index * panels;
            let panels = panels.min(self.panels() - first);
            let columns = self.columns_of(first, panels);
            let c = self.multiply(c, x, first, panels);
            if let Some(bias) = bias {
                for row in c.chunks_exact_mut(columns.len()) {
                    add_assign(row, &bias[columns.clone()]);
                }
            }
        };
        // SAFETY: the product with a chunk's micro-panels is all of the chunk.
        let chunks = unsafe { par_new(self.n * rows, columns * rows, write) }; // chunk after chunk (rows, columns of the chunk)
        if rows == 1 || columns >= self.n {
            return chunks;
        }
        let mut y = zeros(rows * self.n);
        for (index, chunk) in chunks.chunks(columns * rows).enumerate() {
            let count = chunk.len() / rows;
            for (row, values) in chunk.chunks_exact(count).enumerate() {
                y[row * self.n + index * columns..][..count].copy_from_slice(values);
            }
        }
        y
    }

    /// `c` (r, columns) = x (r, k) · B for `count` micro-panels from `first` on.
    ///
    /// Writes all of `c` and returns it.
    fn multiply<'c, T: Real>(&self, c: &'c mut [MaybeUninit<T>], x: &[T], first: usize, count: usize) -> &'c mut [T]
    where
        S: Stored<T>,
    {
        let columns = self.columns_of(first, count).len();
        assert_eq!(c.len(), x.len() / self.k * columns, "a row of C for each row of x");
        multiply(c, columns, x, &self.data[first * self.k..][..count * self.k], self.k);
        // SAFETY: `c` has as many rows as `x`, of `columns` each, and every tile of rows and
        // micro-panels has written its part.
        unsafe { &mut *(std::ptr::from_mut(c) as *mut [T]) }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn multiply<T: Real, S: Stored<T>>(c: &mut [MaybeUninit<T>], columns: usize, x: &[T], panels: &[[S; NR]], k: usize) {
    // tiles whose sums and operands fit the registers
    if target_cfg_f!(target_feature = "avx512f") {
        multiply_by::<T, S, true, 4, 4>(c, columns, x, panels, k);
    } else if target_cfg_f!(target_feature = "fma") || cfg!(target_arch = "aarch64") {
        multiply_by::<T, S, true, 4, 1>(c, columns, x, panels, k);
    } else {
        multiply_by::<T, S, false, 2, 1>(c, columns, x, panels, k);
    }
}

/// Multiplies in tiles of R rows times P micro-panels.
///
/// The remaining rows are taken in twos, then singly, with [`MAX_PANELS`] micro-panels.
#[inline(always)]
fn multiply_by<T: Real, S: Stored<T>, const FUSED: bool, const R: usize, const P: usize>(
    c: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    panels: &[[S; NR]],
    k: usize,
) {
    let (rows, count) = (x.len() / k, panels.len() / k);
    let (tiled, paired) = (rows / R * R, rows / 2 * 2);
    // every row passes a group of micro-panels while the group is in the core's cache
    for panel in (0..count).step_by(MAX_PANELS) {
        let group = panel..(panel + MAX_PANELS).min(count);
        for row in (0..tiled).step_by(R) {
            tiles::<T, S, FUSED, R, P>(c, columns, x, row, panels, group.clone(), k);
        }
        for row in (tiled..paired).step_by(2) {
            tiles::<T, S, FUSED, 2, MAX_PANELS>(c, columns, x, row, panels, group.clone(), k);
        }
        for row in tiled.max(paired)..rows {
            tiles::<T, S, FUSED, 1, MAX_PANELS>(c, columns, x, row, panels, group.clone(), k);
        }
    }
}

/// Multiplies R rows from `row` on by a range of micro-panels: P at a time, then singly.
#[inline(always)]
fn tiles<T: Real, S: Stored<T>, const FUSED: bool, const R: usize, const P: usize>(
    c: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    row: usize,
    panels: &[[S; NR]],
    range: Range<usize>,
    k: usize,
) {
    let whole = range.start + range.len() / P * P;
    for panel in (range.start..whole).step_by(P) {
        micro_kernel::<T, S, FUSED, R, P>(c, columns, x, row, panels, panel, k);
    }
    for panel in whole..range.end {
        micro_kernel::<T, S, FUSED, R, 1>(c, columns, x, row, panels, panel, k);
    }
}

/// The micro-kernel: R rows from `row` on times P micro-panels from `panel` on.
#[inline(always)]
fn micro_kernel<T: Real, S: Stored<T>, const FUSED: bool, const R: usize, const P: usize>(
    c: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    row: usize,
    panels: &[[S; NR]],
    panel: usize,
    k: usize,
) {
    let rows: [&[T]; R] = std::array::from_fn(|r| &x[(row + r) * k..][..k]);
    let panels: [&[[S; NR]]; P] = std::array::from_fn(|p| &panels[(panel + p) * k..][..k]);
    let mut sums = [[[T::zero(); NR]; P]; R];
    for step in 0..k {
        // separate arrays: with bounds checks inside, the compiler neither unrolls the loops nor
        // keeps their sums in registers
        let a: [T; R] = std::array::from_fn(|r| rows[r][step]);
        let b: [[T; NR]; P] = std::array::from_fn(|p| panels[p][step].map(S::value));
        for r in 0..R {
            for p in 0..P {
                for lane in 0..NR {
                    let (sum, a, b) = (sums[r][p][lane], a[r], b[p][lane]);
                    // fused only where it is one instruction
                    sums[r][p][lane] = if FUSED { a.mul_add(b, sum) } else { sum + a * b };
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c = &mut c[(row + r) * columns..(row + r + 1) * columns];
        for (p, sums) in sums.iter().enumerate() {
            for (to, sum) in c[(panel + p) * NR..].iter_mut().zip(sums) {
                to.write(*sum);
            }
        }
    }
}
