//! Matrix products of numbers rounded to bfloat16, summed in `f32`.
//!
//! ```text
//! out (m, n) = start + r(a) (m, k) · r(b) (k, n)      r rounds to the nearest bfloat16, ties to even
//! ```
//!
//! Intel's processors with tiles multiply in those ([`Unit`]). AMD's with AVX-512-BF16 take two steps along k at a time: they multiply and
//! add 32 pairs as fast as 16 `f32`. There
//! each element is summed along k in an order that depends on k alone; operands whose steps lie one after another are rounded as they
//! lie ([`pairs::rows`]), others, and every right operand, are rearranged into panels ([`pairs::Panels`]). On other processors the
//! operands are rounded ([`pairs::rounded`]) and the product is an exact one of `f32`.

mod pairs;
mod tile;

use std::mem::MaybeUninit;
use std::ops::Range;

use super::amx::Unit;
use super::gemm::{self, By, Start};
use super::{par_chunks, par_new, threads};
use pairs::{LANES, Pair, Panels};
use tile::Sums;

pub(super) use pairs::round;

/// Pairs of steps that a tile's sums take in registers.
const DEPTH: usize = 512;
/// Rows of the result that one task takes at most.
const BLOCK: usize = 128;
/// Rows and panels of a tile.
const ROWS: usize = 4;
const PANELS: usize = 4;

/// A matrix of `f32`: data, elements from one row to the next, elements from one column to the next; one of both is 1.
pub(crate) type Matrix<'a> = (&'a [f32], usize, usize);

/// The left operand: rows of pairs, or panels of rows.
enum Left {
    Rows(Vec<Pair>),
    Panels(Panels),
}

/// Whether this processor rounds and multiplies faster than it multiplies exactly.
pub(crate) fn is_fast() -> bool {
    Unit::of_processor().is_some() || tile::is_fast()
}

/// The row `bias`, or nothing, + r(a) (m, k) · r(b) (k, n), row after row, on every thread.
pub(crate) fn product(bias: Option<&[f32]>, sizes: (usize, usize, usize), a: Matrix, b: Matrix) -> Vec<f32> {
    match Unit::taking(sizes) {
        Some(unit) => gemm::new_product_by(By::Tiles(unit), bias, sizes, a, b),
        None if tile::is_fast() => tiled_product(bias, sizes, a, b),
        None => rounded_product(bias, sizes, a, b),
    }
}

/// out (m, n), row after row, += r(a) (m, k) · r(b) (k, n), on every thread.
pub(crate) fn add_product(out: &mut [f32], sizes: (usize, usize, usize), a: Matrix, b: Matrix) {
    match Unit::taking(sizes) {
        Some(unit) => gemm::product_by(By::Tiles(unit), (out, sizes.1), true, sizes, a, b, true),
        None if tile::is_fast() => add_tiled_product(out, sizes, a, b),
        None => add_rounded_product(out, sizes, a, b),
    }
}

fn rounded_product(bias: Option<&[f32]>, sizes: (usize, usize, usize), a: Matrix, b: Matrix) -> Vec<f32> {
    let (a_data, b_data) = (pairs::rounded(a.0), pairs::rounded(b.0));
    gemm::new_product(bias, sizes, (&a_data, a.1, a.2), (&b_data, b.1, b.2))
}

fn add_rounded_product(out: &mut [f32], sizes: (usize, usize, usize), a: Matrix, b: Matrix) {
    assert_eq!(out.len(), sizes.0 * sizes.1);
    let (a_data, b_data) = (pairs::rounded(a.0), pairs::rounded(b.0));
    gemm::product(
        (out, sizes.1),
        true,
        sizes,
        (&a_data, a.1, a.2),
        (&b_data, b.1, b.2),
        true,
    );
}

fn tiled_product(bias: Option<&[f32]>, (m, n, k): (usize, usize, usize), a: Matrix, b: Matrix) -> Vec<f32> {
    let product = Product::new((m, n, k), a, b);
    let start = bias.map_or(Start::Zero, Start::Row);
    // SAFETY: `rows` writes all of its rows.
    unsafe { par_new(m * n, product.block * n, |index, out| product.rows(out, start, index)) }
}

fn add_tiled_product(out: &mut [f32], (m, n, k): (usize, usize, usize), a: Matrix, b: Matrix) {
    assert_eq!(out.len(), m * n);
    let product = Product::new((m, n, k), a, b);
    par_chunks(out, product.block * n, |index, out| {
        // SAFETY: the same elements; nothing uninitialised is written into them.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
        product.rows(out, Start::Held, index);
    });
}

/// Both operands, and how the rows of the result are cut.
struct Product {
    left: Left,
    right: Panels,
    rows: usize,
    columns: usize,
    /// Rows of a task.
    block: usize,
}

impl Product {
    fn new((m, n, k): (usize, usize, usize), a: Matrix, b: Matrix) -> Self {
        Self {
            left: match a.2 {
                1 => Left::Rows(pairs::rows(a.0, a.1, (m, k))),
                _ => Left::Panels(Panels::new(a.0, (a.1, a.2), (m, k))),
            },
            right: Panels::new(b.0, (b.2, b.1), (n, k)),
            rows: m,
            columns: n,
            block: (m / (4 * threads())).clamp(1, BLOCK).next_multiple_of(LANES),
        }
    }

    /// The rows of task `index`, all of which are written.
    fn rows(&self, out: &mut [MaybeUninit<f32>], start: Start<f32>, index: usize) {
        let first = index * self.block;
        let rows = first..(first + self.block).min(self.rows);
        let panels = self.columns.div_ceil(LANES);
        let whole = panels / PANELS * PANELS;
        let (mut start, mut from) = (start, 0);
        loop {
            let depth = DEPTH.min(self.right.depth - from);
            for panel in (0..whole).step_by(PANELS) {
                self.panels::<PANELS>(out, start, rows.clone(), panel, (from, depth));
            }
            for panel in whole..panels {
                self.panels::<1>(out, start, rows.clone(), panel, (from, depth));
            }
            (start, from) = (Start::Held, from + depth);
            if from >= self.right.depth {
                return;
            }
        }
    }

    /// P panels of the rows, for some pairs of steps.
    fn panels<const P: usize>(
        &self,
        out: &mut [MaybeUninit<f32>],
        start: Start<f32>,
        rows: Range<usize>,
        panel: usize,
        steps: (usize, usize),
    ) {
        let b: [&[[Pair; LANES]]; P] = std::array::from_fn(|p| self.right.panel(panel + p, steps));
        let whole = rows.start + rows.len() / ROWS * ROWS;
        let first = rows.start;
        let mut sums: Sums<ROWS, P> = [[[0.0; LANES]; P]; ROWS];
        for row in (rows.start..whole).step_by(ROWS) {
            let (a, strides) = self.left.tile(row, self.right.depth, steps);
            tile::tile(a, strides, b, &mut sums);
            self.write(&mut out[(row - first) * self.columns..], start, panel, &sums);
        }
        let mut sums: Sums<1, P> = [[[0.0; LANES]; P]; 1];
        for row in whole..rows.end {
            let (a, strides) = self.left.tile(row, self.right.depth, steps);
            tile::tile(a, strides, b, &mut sums);
            self.write(&mut out[(row - first) * self.columns..], start, panel, &sums);
        }
    }

    /// Writes a tile to the rows that `out` begins with, from panel `panel` on.
    fn write<const R: usize, const P: usize>(
        &self,
        out: &mut [MaybeUninit<f32>],
        start: Start<f32>,
        panel: usize,
        sums: &Sums<R, P>,
    ) {
        for (row, sums) in sums.iter().enumerate() {
            let out = &mut out[row * self.columns..][..self.columns];
            for (p, sums) in sums.iter().enumerate() {
                let column = (panel + p) * LANES;
                let out = out[column..].iter_mut().zip(sums);
                match start {
                    Start::Zero => out.for_each(|(out, sum)| {
                        out.write(*sum);
                    }),
                    Start::Row(row) => out.zip(&row[column..]).for_each(|((out, sum), start)| {
                        out.write(*start + *sum);
                    }),
                    Start::Held => out.for_each(|(out, sum)| {
                        // SAFETY: `add_product` was given numbers, and after the first steps `rows` has written all.
                        let held = unsafe { out.assume_init_mut() };
                        *held += *sum;
                    }),
                }
            }
        }
    }
}

impl Left {
    /// Pairs from row `row` on, for some pairs of steps out of `depth`, and the distance from one row and from one pair of steps to
    /// the next.
    fn tile(&self, row: usize, depth: usize, steps: (usize, usize)) -> (&[Pair], (usize, usize)) {
        match self {
            Self::Rows(pairs) => (&pairs[(row * depth + steps.0).min(pairs.len())..], (depth, 1)),
            // the rows of a tile lie in one panel: its height divides LANES, and blocks begin at multiples of that
            Self::Panels(panels) => {
                let lanes = panels.panel(row / LANES, steps).as_flattened();
                (&lanes[(row % LANES).min(lanes.len())..], (1, LANES))
            }
        }
    }
}

#[cfg(test)]
mod tests;
