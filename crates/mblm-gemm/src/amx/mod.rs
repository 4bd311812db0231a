//! Matrix products of numbers rounded to bfloat16 in Intel AMX tiles, summed in `f32`.
//!
//! ```text
//! C (m, n) = β C + r(A) (m, k) · r(B) (k, n)      r rounds to the nearest bfloat16, ties to even
//! ```
//!
//! A tile instruction adds 16 × 16 × 32 products to sums that stay in tiles. Numbers below 2⁻¹²⁶
//! count as zero. Each element of C is summed along k in an order that depends on k alone.
//!
//! Exact products of `f32` do not use tiles: split into three bfloat16 numbers each, they take six
//! products (arXiv 1904.06376), which trained at 0.8 to 1.2 times the speed of vector instructions.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod micro_kernel;
mod pack;
mod tile;

use std::ops::Range;

use micro_kernel::TileRegisters;
use pack::{Operand, PackedBlock};

pub(crate) use tile::{MR, NR, TileUnit};

use crate::matrix::{Beta, Dims, Matrix, MatrixPtr};

/// Rows and columns of C, and steps along k, that are packed at once.
///
/// A micro-panel of A stays in the L1 cache, the packed blocks in a core's own 2 MB cache.
const MC: usize = 256;
const NC: usize = 1024;
const KC: usize = 512;
/// Steps along k, a multiple of KC, for which B stays packed while the rows of C pass.
const KC_OF_PACKED_B: usize = 2048;

/// C (m, n) = β C + r(A) · r(B), on this thread, for at least one step along k.
///
/// One of A's strides is 1, and one of B's.
///
/// # Safety
/// Every element of C may be written, and nobody else uses it; for [`Beta::One`] it holds a number.
pub(crate) unsafe fn multiply(
    unit: TileUnit,
    c: MatrixPtr<f32>,
    beta: Beta<f32>,
    Dims { m, n, k }: Dims,
    a: Matrix<f32>,
    b: Matrix<f32>,
) {
    let mut packed_a = PackedBlock::new(unit, Operand::A);
    let kept = if m <= MC { 1 } else { k.min(KC_OF_PACKED_B).div_ceil(KC) };
    let mut packed_b: Vec<_> = (0..kept).map(|_| PackedBlock::new(unit, Operand::B)).collect();
    let registers = TileRegisters::new(unit);
    for outer in blocks(0..k, KC_OF_PACKED_B) {
        for columns in blocks(0..n, NC) {
            for rows in blocks(0..m, MC) {
                for (index, steps) in blocks(outer.clone(), KC).enumerate() {
                    let packed_b = &mut packed_b[index % kept];
                    if rows.start == 0 {
                        packed_b.pack(b.transposed(), columns.clone(), steps.clone());
                    }
                    packed_a.pack(a, rows.clone(), steps.clone());
                    let beta = if steps.start > 0 { Beta::One } else { beta };
                    for (panel_of_a, row) in rows.clone().step_by(MR).enumerate() {
                        for (panel_of_b, column) in columns.clone().step_by(NR).enumerate() {
                            // SAFETY: the caller's word for the elements; after the first steps
                            // they have been written.
                            unsafe {
                                registers.multiply(
                                    packed_a.panel(panel_of_a),
                                    packed_b.panel(panel_of_b),
                                    beta.starting_at(column),
                                    c.starting_at(row, column),
                                    MR.min(m - row),
                                    NR.min(n - column),
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Cuts a range into blocks of `size`; the last block takes the rest.
fn blocks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..(start + size).min(end))
}

#[cfg(test)]
mod tests;
