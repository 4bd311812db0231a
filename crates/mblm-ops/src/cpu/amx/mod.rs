//! Matrix products of numbers rounded to bfloat16 in the tiles of Intel's processors (AMX), summed in `f32`.
//!
//! ```text
//! out (m, n) = start + r(a) (m, k) · r(b) (k, n)      r rounds to the nearest bfloat16, ties to even
//! ```
//!
//! A tile instruction adds 16 × 16 × 32 products to sums that stay in tiles. Numbers below 2⁻¹²⁶ count as zero. Each element is summed
//! along k in an order that depends on k alone.
//!
//! Products of `f32` do not go this way: as three numbers of bfloat16 each they take six products (arXiv 1904.06376), which trained 1.2 times as
//! fast as vector instructions on one machine and at 0.8 of their speed on another.

mod kernel;
mod strips;

use std::ops::Range;

use super::gemm::{Matrix, Start};
use kernel::{Block, Tiles};
use strips::{LANES, Side, Strips};

/// Rows and columns of a block that is written at once.
pub(super) const BLOCK: usize = LANES;

/// Rows and columns of the result that are gone through at once, and steps along k: a strip of the left operand stays in the cache of the
/// first level, what is gone through in a core's own cache of two megabytes.
const HEIGHT: usize = 256;
const WIDTH: usize = 1024;
const DEPTH: usize = 512;
/// Steps along k for which the right operand is rearranged before the rows of the result are gone through.
const DEEP: usize = 2048;

/// What multiplies tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The processor's, and not `f32` arithmetic.
    native: bool,
}

impl Unit {
    /// The processor's, where it has one and the operating system lets this process use it. The question leaves a virtual machine: once
    /// a product is seldom enough.
    pub(crate) fn of_processor() -> Option<Self> {
        kernel::is_native().then_some(Self { native: true })
    }

    /// The processor's, for a product of sizes that are worth rearranging its operands.
    pub(super) fn taking((m, n, k): (usize, usize, usize)) -> Option<Self> {
        const LEAST: usize = 32;
        match m.min(n).min(k) >= LEAST {
            true => Self::of_processor(),
            false => None,
        }
    }

    /// `f32` arithmetic: slow, and what the processor's is tested against.
    #[cfg(test)]
    pub(super) fn portable() -> Self {
        Self { native: false }
    }

    /// The processor's, else `f32` arithmetic.
    #[cfg(test)]
    pub(super) fn any() -> Self {
        Self::of_processor().unwrap_or(Self::portable())
    }
}

/// out (m, n) = start + r(a) (m, k) · r(b) (k, n), on this thread, for at least one step along k.
///
/// # Safety
/// Every element (i, j) of `out`, at i times its row stride + j, may be written, and nobody else uses it; to be [`Start::Held`]
/// it holds a number.
pub(super) unsafe fn multiply(
    unit: Unit,
    (out, out_row): (*mut f32, usize),
    start: Start<f32>,
    (m, n, k): (usize, usize, usize),
    a: Matrix<f32>,
    b: Matrix<f32>,
) {
    let mut left = Strips::new(unit, Side::Left);
    let kept = if m <= HEIGHT { 1 } else { k.min(DEEP).div_ceil(DEPTH) };
    let mut right: Vec<_> = (0..kept).map(|_| Strips::new(unit, Side::Right)).collect();
    let tiles = Tiles::new(unit);
    for deep in pieces(0..k, DEEP) {
        for columns in pieces(0..n, WIDTH) {
            for rows in pieces(0..m, HEIGHT) {
                for (index, steps) in pieces(deep.clone(), DEPTH).enumerate() {
                    let right = &mut right[index % kept];
                    if rows.start == 0 {
                        right.fill((b.0, b.2, b.1), columns.clone(), steps.clone());
                    }
                    left.fill(a, rows.clone(), steps.clone());
                    for (strip, row) in rows.clone().step_by(LANES).enumerate() {
                        for (of_right, column) in columns.clone().step_by(LANES).enumerate() {
                            let start = match start {
                                _ if steps.start > 0 => Start::Held,
                                Start::Row(row) => Start::Row(&row[column..]),
                                start => start,
                            };
                            let block = Block {
                                rows: LANES.min(m - row),
                                columns: LANES.min(n - column),
                                stride: out_row,
                            };
                            // SAFETY: the caller's word for the elements; after the first steps they have been written.
                            unsafe {
                                let out = out.add(row * out_row + column);
                                tiles.multiply(left.strip(strip), right.strip(of_right), start, out, block);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A range in ranges of `piece`, the last one of what is left.
fn pieces(range: Range<usize>, piece: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(piece).map(move |start| start..(start + piece).min(end))
}

#[cfg(test)]
mod tests;
