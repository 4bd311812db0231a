//! Matrix products of numbers rounded to bfloat16, summed in `f32`.
//!
//! ```text
//! out (m, n) = start + r(a) (m, k) · r(b) (k, n)        r rounds to the nearest bfloat16, ties to even
//! ```
//!
//! Two steps along k at a time: processors with AVX-512-BF16 multiply and add 32 pairs an instruction, twice as many as `f32`; on
//! others [`tile`] does the same with `f32` arithmetic, no faster than an exact product. Each element is summed along k in an order
//! that depends on k alone. Operands whose steps lie one after another are rounded as they lie ([`pairs::rows`]); others, and
//! every right operand, are rearranged into panels ([`pairs::Panels`]).

mod pairs;
mod tile;

use pairs::{LANES, Pair, Panels};
use tile::Sums;

use super::{par_chunks, threads};

pub(crate) use tile::is_native;

/// Pairs of steps that a tile's sums take in registers.
const DEPTH: usize = 512;
/// Rows of the result that one task takes at most.
const BLOCK: usize = 128;
/// Rows and panels of a tile.
const ROWS: usize = 4;
const PANELS: usize = 4;

/// A matrix of `f32`: data, elements from one row to the next, elements from one column to the next; one of both is 1.
pub(crate) type Matrix<'a> = (&'a [f32], usize, usize);

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: whatever the result held is replaced.
    Zero,
    /// What the result holds.
    Held,
    /// The same row everywhere.
    Row(&'a [f32]),
}

/// The left operand: rows of pairs, or panels of rows.
enum Left {
    Rows(Vec<Pair>),
    Panels(Panels),
}

/// out (m, n), row after row, = start + r(a) (m, k) · r(b) (k, n), on every thread.
pub(crate) fn product(out: &mut [f32], start: Start, (m, n, k): (usize, usize, usize), a: Matrix, b: Matrix) {
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(out.len(), m * n);
    let left = match a.2 {
        1 => Left::Rows(pairs::rows(a.0, a.1, (m, k))),
        _ => Left::Panels(Panels::new(a.0, (a.1, a.2), (m, k))),
    };
    let right = Panels::new(b.0, (b.2, b.1), (n, k));
    let block = (m / (4 * threads())).clamp(1, BLOCK).next_multiple_of(LANES);
    par_chunks(out, block * n, |index, out| {
        let target = Target { columns: n, start };
        target.multiply(out, &left, index * block, &right);
    });
}

/// Where tiles go.
struct Target<'a> {
    columns: usize,
    start: Start<'a>,
}

impl Target<'_> {
    /// The rows from `first` on, as many as `out` holds.
    fn multiply(&self, out: &mut [f32], left: &Left, first: usize, right: &Panels) {
        let (rows, panels) = (out.len() / self.columns, self.columns.div_ceil(LANES));
        let mut from = 0;
        loop {
            let depth = DEPTH.min(right.depth - from);
            let target = Target {
                start: if from == 0 { self.start } else { Start::Held },
                ..*self
            };
            let whole = panels / PANELS * PANELS;
            for panel in (0..whole).step_by(PANELS) {
                target.rows::<PANELS>(out, rows, left, first, right, panel, (from, depth));
            }
            for panel in whole..panels {
                target.rows::<1>(out, rows, left, first, right, panel, (from, depth));
            }
            from += depth;
            if from >= right.depth {
                return;
            }
        }
    }

    /// All rows times P panels.
    fn rows<const P: usize>(
        &self,
        out: &mut [f32],
        rows: usize,
        left: &Left,
        first: usize,
        right: &Panels,
        panel: usize,
        steps: (usize, usize),
    ) {
        let b: [&[[Pair; LANES]]; P] = std::array::from_fn(|p| right.panel(panel + p, steps));
        let whole = rows / ROWS * ROWS;
        for row in (0..whole).step_by(ROWS) {
            self.tile::<ROWS, P>(out, row, left, first, right.depth, panel, b, steps);
        }
        for row in whole..rows {
            self.tile::<1, P>(out, row, left, first, right.depth, panel, b, steps);
        }
    }

    fn tile<const R: usize, const P: usize>(
        &self,
        out: &mut [f32],
        row: usize,
        left: &Left,
        first: usize,
        depth: usize,
        panel: usize,
        b: [&[[Pair; LANES]]; P],
        steps: (usize, usize),
    ) {
        let (a, strides) = match left {
            Left::Rows(pairs) => (&pairs[((first + row) * depth + steps.0).min(pairs.len())..], (depth, 1)),
            // R divides LANES, and `first` and `row` are multiples of it
            Left::Panels(panels) => {
                let lanes = panels.panel((first + row) / LANES, steps).as_flattened();
                (&lanes[((first + row) % LANES).min(lanes.len())..], (1, LANES))
            }
        };
        let mut sums: Sums<R, P> = [[[0.0; LANES]; P]; R];
        tile::tile(a, strides, b, &mut sums);
        self.write(out, row, panel, &sums);
    }

    /// Adds a tile to the start, from row `row` and panel `panel` on.
    fn write<const R: usize, const P: usize>(&self, out: &mut [f32], row: usize, panel: usize, sums: &Sums<R, P>) {
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut out[(row + r) * self.columns..][..self.columns];
            for (p, sums) in sums.iter().enumerate() {
                let column = (panel + p) * LANES;
                let out = &mut out[column..];
                match self.start {
                    Start::Zero => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum),
                    Start::Held => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum),
                    Start::Row(start) => {
                        let sums = start[column..].iter().zip(sums);
                        out.iter_mut()
                            .zip(sums)
                            .for_each(|(out, (start, sum))| *out = *start + *sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
