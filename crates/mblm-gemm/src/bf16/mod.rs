//! Matrix products of numbers rounded to bfloat16, summed in `f32`.
//!
//! ```text
//! C (m, n) = β C + r(A) (m, k) · r(B) (k, n)      r rounds to the nearest bfloat16, ties to even
//! ```
//!
//! There are three ways, chosen by the processor and the sizes:
//!
//! - Intel processors with AMX multiply in tiles (`amx`).
//! - AMD processors with AVX-512-BF16 multiply and add 32 VNNI pairs as fast as 16 `f32`. If A's
//!   steps along k are contiguous, A is packed row by row (`vnni::pack_rows`); any other A, and
//!   every B, is packed in micro-panels (`vnni::MicroPanels`). Each element of C is summed along k
//!   in an order that depends on k alone.
//! - Other processors round A and B (`vnni::rounded`) and multiply them exactly in `f32`.
//!
//! ```
//! use mblm_gemm::{Dims, Matrix, bf16};
//!
//! let third = [1.0 / 3.0];
//! let c = bf16::product(None, Dims::new(1, 1, 1), Matrix::new(&third, 1, 1), Matrix::new(&[1.0], 1, 1));
//! assert_eq!(c, [0.333984375]); // a third has eight bits in bfloat16
//! ```

mod micro_kernel;
mod vnni;

use std::mem::MaybeUninit;
use std::ops::Range;

use micro_kernel::{PackedRows, Sums};
use vnni::{LANES, MicroPanels, VnniPair};

use crate::amx::TileUnit;
use crate::matrix::{Beta, Dims, Matrix, MatrixMut, Threads};
use crate::parallel::{par_chunks, par_new, threads};
use crate::processor::processor;
use crate::product::{self as exact, Backend};

/// Pairs of steps along k that a tile sums in registers before it adds to C.
const KC_PAIRS: usize = 512;
/// Most rows of C that one task takes.
const MAX_MC: usize = 128;
/// Rows of a tile, and micro-panels of B.
const MR: usize = 4;
const NR_PANELS: usize = 4;

/// A new C (m, n) = bias + r(A) · r(B) in row-major order, computed on all threads.
///
/// The row `bias` (n) is added to every row of C, if given. One of A's strides is 1, and one of
/// B's.
pub fn product(bias: Option<&[f32]>, dims: Dims, a: Matrix<f32>, b: Matrix<f32>) -> Vec<f32> {
    match TileUnit::for_product(dims) {
        Some(unit) => exact::product_by(Backend::Tiles(unit), bias, dims, a, b),
        None if processor().avx512_bf16_is_fast => vector_product(bias, dims, a, b),
        None => rounded_product(bias, dims, a, b),
    }
}

/// C (m, n) += r(A) · r(B), in row-major order, computed on all threads.
///
/// One of A's strides is 1, and one of B's.
pub fn add_product(c: &mut [f32], dims: Dims, a: Matrix<f32>, b: Matrix<f32>) {
    match TileUnit::for_product(dims) {
        Some(unit) => add_product_by(Backend::Tiles(unit), c, dims, a, b),
        None if processor().avx512_bf16_is_fast => add_vector_product(c, dims, a, b),
        None => add_rounded_product(c, dims, a, b),
    }
}

fn add_product_by(backend: Backend, c: &mut [f32], dims: Dims, a: Matrix<f32>, b: Matrix<f32>) {
    let c = MatrixMut::new(c, dims.n);
    exact::product_into_by(backend, c, Beta::One, dims, a, b, Threads::All);
}

fn rounded_product(bias: Option<&[f32]>, dims: Dims, a: Matrix<f32>, b: Matrix<f32>) -> Vec<f32> {
    let (a_data, b_data) = (vnni::rounded(a.data), vnni::rounded(b.data));
    exact::product(bias, dims, with_data(a, &a_data), with_data(b, &b_data))
}

fn add_rounded_product(c: &mut [f32], dims: Dims, a: Matrix<f32>, b: Matrix<f32>) {
    assert_eq!(c.len(), dims.m * dims.n);
    let (a_data, b_data) = (vnni::rounded(a.data), vnni::rounded(b.data));
    add_product_by(
        Backend::GemmCrate,
        c,
        dims,
        with_data(a, &a_data),
        with_data(b, &b_data),
    );
}

/// A matrix of `data` with the strides of `matrix`.
fn with_data<'a>(matrix: Matrix<f32>, data: &'a [f32]) -> Matrix<'a, f32> {
    Matrix::new(data, matrix.row_stride, matrix.column_stride)
}

/// [`product`] in vectors of VNNI pairs.
fn vector_product(bias: Option<&[f32]>, dims: Dims, a: Matrix<f32>, b: Matrix<f32>) -> Vec<f32> {
    let product = PackedProduct::new(dims, a, b);
    let beta = bias.map_or(Beta::Zero, Beta::Bias);
    // SAFETY: `block` writes all of its rows.
    unsafe {
        par_new(dims.m * dims.n, product.mc * dims.n, |index, c| {
            product.block(c, beta, index)
        })
    }
}

/// [`add_product`] in vectors of VNNI pairs.
fn add_vector_product(c: &mut [f32], dims: Dims, a: Matrix<f32>, b: Matrix<f32>) {
    assert_eq!(c.len(), dims.m * dims.n);
    let product = PackedProduct::new(dims, a, b);
    par_chunks(c, product.mc * dims.n, |index, c| {
        // SAFETY: the same elements; nothing uninitialised is written into them.
        let c = unsafe { &mut *(std::ptr::from_mut(c) as *mut [MaybeUninit<f32>]) };
        product.block(c, Beta::One, index);
    });
}

/// Packed A.
enum PackedA {
    /// Pairs, row by row.
    Rows(Vec<VnniPair>),
    /// Micro-panels of rows.
    MicroPanels(MicroPanels),
}

/// Packed A and B, and how the rows of C are cut into blocks.
struct PackedProduct {
    a: PackedA,
    b: MicroPanels,
    m: usize,
    n: usize,
    /// Rows of a block. A block is one task.
    mc: usize,
}

impl PackedProduct {
    fn new(Dims { m, n, k }: Dims, a: Matrix<f32>, b: Matrix<f32>) -> Self {
        Self {
            a: match a.column_stride {
                1 => PackedA::Rows(vnni::pack_rows(a.data, a.row_stride, m, k)),
                _ => PackedA::MicroPanels(MicroPanels::pack(a, m, k)),
            },
            b: MicroPanels::pack(b.transposed(), n, k),
            m,
            n,
            mc: (m / (4 * threads())).clamp(1, MAX_MC).next_multiple_of(LANES),
        }
    }

    /// Computes all rows of block `index`.
    fn block(&self, c: &mut [MaybeUninit<f32>], beta: Beta<f32>, index: usize) {
        let first = index * self.mc;
        let rows = first..(first + self.mc).min(self.m);
        let panels = self.n.div_ceil(LANES);
        let whole = panels / NR_PANELS * NR_PANELS;
        let (mut beta, mut from) = (beta, 0);
        loop {
            let pairs = from..(from + KC_PAIRS).min(self.b.depth);
            for panel in (0..whole).step_by(NR_PANELS) {
                self.panels::<NR_PANELS>(c, beta, rows.clone(), panel, pairs.clone());
            }
            for panel in whole..panels {
                self.panels::<1>(c, beta, rows.clone(), panel, pairs.clone());
            }
            (beta, from) = (Beta::One, pairs.end);
            if from >= self.b.depth {
                return;
            }
        }
    }

    /// Multiplies the rows by P micro-panels of B, from `panel` on, for some pairs of steps.
    fn panels<const P: usize>(
        &self,
        c: &mut [MaybeUninit<f32>],
        beta: Beta<f32>,
        rows: Range<usize>,
        panel: usize,
        pairs: Range<usize>,
    ) {
        let b: [&[[VnniPair; LANES]]; P] = std::array::from_fn(|p| self.b.panel(panel + p, pairs.clone()));
        let whole = rows.start + rows.len() / MR * MR;
        let first = rows.start;
        let mut sums: Sums<MR, P> = [[[0.0; LANES]; P]; MR];
        for row in (rows.start..whole).step_by(MR) {
            micro_kernel::multiply(self.a.rows(row, self.b.depth, pairs.clone()), b, &mut sums);
            self.write(&mut c[(row - first) * self.n..], beta, panel, &sums);
        }
        let mut sums: Sums<1, P> = [[[0.0; LANES]; P]; 1];
        for row in whole..rows.end {
            micro_kernel::multiply(self.a.rows(row, self.b.depth, pairs.clone()), b, &mut sums);
            self.write(&mut c[(row - first) * self.n..], beta, panel, &sums);
        }
    }

    /// Writes a tile to the first rows of `c`, at the columns of micro-panel `panel` of B and the
    /// next.
    fn write<const R: usize, const P: usize>(
        &self,
        c: &mut [MaybeUninit<f32>],
        beta: Beta<f32>,
        panel: usize,
        sums: &Sums<R, P>,
    ) {
        for (row, sums) in sums.iter().enumerate() {
            let c = &mut c[row * self.n..][..self.n];
            for (p, sums) in sums.iter().enumerate() {
                let column = (panel + p) * LANES;
                let c = c[column..].iter_mut().zip(sums);
                match beta {
                    Beta::Zero => c.for_each(|(c, sum)| {
                        c.write(*sum);
                    }),
                    Beta::Bias(bias) => c.zip(&bias[column..]).for_each(|((c, sum), bias)| {
                        c.write(*bias + *sum);
                    }),
                    Beta::One => c.for_each(|(c, sum)| {
                        // SAFETY: `add_product` was given numbers, and after the first steps
                        // `block` has written all.
                        let held = unsafe { c.assume_init_mut() };
                        *held += *sum;
                    }),
                }
            }
        }
    }
}

impl PackedA {
    /// Rows from `row` on, for some pairs of steps out of `depth`.
    fn rows(&self, row: usize, depth: usize, steps: Range<usize>) -> PackedRows<'_> {
        match self {
            Self::Rows(pairs) => PackedRows {
                pairs: &pairs[(row * depth + steps.start).min(pairs.len())..],
                row_stride: depth,
                step_stride: 1,
            },
            // the rows of a tile lie in one micro-panel: MR divides LANES, and blocks begin at
            // multiples of LANES
            Self::MicroPanels(panels) => {
                let lanes = panels.panel(row / LANES, steps).as_flattened();
                PackedRows {
                    pairs: &lanes[(row % LANES).min(lanes.len())..],
                    row_stride: 1,
                    step_stride: LANES,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
