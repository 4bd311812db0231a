//! Packing of A and B in tiles: 32 rows of A, or 32 columns of B, are a micro-panel.
//!
//! A tile of packed A is (16 rows, 16 VNNI pairs of steps along k), a tile of packed B (16 VNNI
//! pairs of steps, 16 columns). A micro-panel is (steps / 32, 2 tiles). A lane is a row of A or a
//! column of B. Missing lanes and steps are padded with zeros.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::tile::{MR, MicroPanel, SIZE, STEPS, Tile, TileUnit};
use crate::matrix::Matrix;
use crate::rounding::round;

/// Lanes of a micro-panel, of A and of B.
const LANES: usize = MR;

/// The operand to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    A,
    B,
}

/// A packed block of an operand; the next block reuses its memory.
pub(super) struct PackedBlock {
    unit: TileUnit,
    operand: Operand,
    /// The micro-panels, one after another.
    tiles: Vec<[Tile; 2]>,
    /// Tiles along k in a micro-panel, 32 steps each.
    len: usize,
}

impl PackedBlock {
    pub(super) fn new(unit: TileUnit, operand: Operand) -> Self {
        Self {
            unit,
            operand,
            tiles: Vec::new(),
            len: 0,
        }
    }

    /// Packs some lanes and steps of a matrix (lanes, k): A, or the transpose of B.
    ///
    /// One of the matrix's strides is 1.
    pub(super) fn pack(&mut self, matrix: Matrix<f32>, lanes: Range<usize>, steps: Range<usize>) {
        let (data, lane, step) = (matrix.data, matrix.row_stride, matrix.column_stride);
        self.len = steps.len().div_ceil(STEPS);
        let panels = lanes.len().div_ceil(LANES);
        let count = panels * self.len;
        self.tiles.clear();
        self.tiles.reserve(count);
        let tiles = &mut self.tiles.spare_capacity_mut()[..count];
        let mut write = |panel: usize, of_steps: usize| {
            let tiles = tiles[panel * self.len + of_steps]
                .as_mut_ptr()
                .cast::<MaybeUninit<Tile>>();
            let from = steps.start + of_steps * STEPS;
            for half in 0..2 {
                let first = (lanes.start + panel * LANES + half * SIZE).min(lanes.end);
                let source = Source {
                    data: &data[(first * lane + from * step).min(data.len())..],
                    lane,
                    step,
                    lanes: SIZE.min(lanes.end - first),
                    steps: STEPS.min(steps.end - from),
                };
                // SAFETY: there are two tiles, borrowed mutably.
                source.write(self.unit, self.operand, unsafe { &mut *tiles.add(half) });
            }
        };
        match step {
            1 => (0..panels).for_each(|panel| (0..self.len).for_each(|of_steps| write(panel, of_steps))),
            _ => (0..self.len).for_each(|of_steps| (0..panels).for_each(|panel| write(panel, of_steps))),
        }
        // SAFETY: every tile has been written.
        unsafe { self.tiles.set_len(count) };
    }

    /// A micro-panel of the block.
    pub(super) fn panel(&self, index: usize) -> &MicroPanel {
        &self.tiles[index * self.len..][..self.len]
    }
}

/// The part of an operand that becomes a tile.
struct Source<'a> {
    data: &'a [f32],
    lane: usize,
    step: usize,
    lanes: usize,
    steps: usize,
}

impl Source<'_> {
    fn write(&self, unit: TileUnit, operand: Operand, to: &mut MaybeUninit<Tile>) {
        #[cfg(target_arch = "x86_64")]
        if unit.native {
            // SAFETY: a processor with such a unit has the features.
            unsafe { self.write_native(operand, to) };
            return;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = unit;
        self.write_portable(operand, to);
    }

    fn write_portable(&self, operand: Operand, to: &mut MaybeUninit<Tile>) {
        let to = to.write(Tile([[0; SIZE]; SIZE]));
        for lane in 0..SIZE {
            for pair in 0..SIZE {
                let at = |step: usize| match lane < self.lanes && step < self.steps {
                    true => u32::from(round(self.data[lane * self.lane + step * self.step])),
                    false => 0,
                };
                let (row, column) = match operand {
                    Operand::A => (lane, pair),
                    Operand::B => (pair, lane),
                };
                to.0[row][column] = at(2 * pair) | at(2 * pair + 1) << 16;
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512F and AVX-512BW.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn write_native(&self, operand: Operand, to: &mut MaybeUninit<Tile>) {
        use std::arch::x86_64::{__m512i, _mm512_setzero_ps, _mm512_store_si512};

        use super::avx512::{concatenate, interleave, load, rounded, transpose};

        let to = to.as_mut_ptr().cast::<__m512i>();
        // SAFETY: a tile is 16 rows of 64 bytes, and begins at a multiple of that.
        let write = |row: usize, pairs: __m512i| unsafe { _mm512_store_si512(to.add(row), pairs) };
        // sixteen steps of one lane, or sixteen lanes of one step
        let along_steps = |lane: usize, half: usize| match lane < self.lanes {
            true => load(
                self.data,
                lane * self.lane + half * SIZE,
                self.steps.saturating_sub(half * SIZE).min(SIZE),
            ),
            false => _mm512_setzero_ps(),
        };
        let along_lanes = |step: usize| match step < self.steps {
            true => load(self.data, step * self.step, self.lanes),
            false => _mm512_setzero_ps(),
        };
        match (operand, self.step) {
            (Operand::A, 1) => {
                for lane in 0..SIZE {
                    let (first, last) = (rounded(along_steps(lane, 0)), rounded(along_steps(lane, 1)));
                    write(lane, concatenate(first, last));
                }
            }
            (Operand::A, _) => {
                let mut halves = [[_mm512_setzero_ps(); SIZE]; 2];
                for (half, rows) in halves.iter_mut().enumerate() {
                    for (step, row) in rows.iter_mut().enumerate() {
                        *row = along_lanes(half * SIZE + step);
                    }
                    transpose(rows);
                }
                for (lane, (first, last)) in halves[0].into_iter().zip(halves[1]).enumerate() {
                    write(lane, concatenate(rounded(first), rounded(last)));
                }
            }
            (Operand::B, 1) => {
                for half in 0..2 {
                    let mut rows = [_mm512_setzero_ps(); SIZE];
                    for (lane, row) in rows.iter_mut().enumerate() {
                        *row = along_steps(lane, half);
                    }
                    transpose(&mut rows);
                    for (pair, [even, odd]) in rows.as_chunks::<2>().0.iter().enumerate() {
                        write(half * SIZE / 2 + pair, interleave(rounded(*even), rounded(*odd)));
                    }
                }
            }
            (Operand::B, _) => {
                for pair in 0..SIZE {
                    let (even, odd) = (along_lanes(2 * pair), along_lanes(2 * pair + 1));
                    write(pair, interleave(rounded(even), rounded(odd)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_tiles_are_the_portable_ones() {
        if TileUnit::of_processor().is_none() {
            return;
        }
        let mut data: Vec<f32> = (0..40 * 40).map(|i| (i as f32 * 0.7).sin()).collect();
        for (index, bits) in [
            0x7fff_ffff,
            0x7f80_0001,
            0x7f80_0000,
            0x7f7f_ffff,
            0x3f80_8000,
            0x3f81_8000,
        ]
        .into_iter()
        .enumerate()
        {
            data[3 + index] = f32::from_bits(bits);
        }
        let empty = || MaybeUninit::new(Tile([[7; SIZE]; SIZE]));
        for (lane, step) in [(40, 1), (1, 40)] {
            for (lanes, steps) in [(16, 32), (1, 1), (5, 17), (0, 32), (16, 16), (16, 3)] {
                for operand in [Operand::A, Operand::B] {
                    let source = Source {
                        data: &data[3..],
                        lane,
                        step,
                        lanes,
                        steps,
                    };
                    let (mut native, mut portable) = (empty(), empty());
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: the processor has the tiles, and so the features.
                    unsafe {
                        source.write_native(operand, &mut native);
                    }
                    source.write_portable(operand, &mut portable);
                    // SAFETY: they are numbers from the beginning.
                    let (native, portable) = unsafe { (native.assume_init().0, portable.assume_init().0) };
                    assert_eq!(
                        native, portable,
                        "{operand:?}, {lanes} lanes {lane} apart, {steps} steps"
                    );
                }
            }
        }
    }
}
