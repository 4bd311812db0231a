//! Packs A and B as VNNI pairs: two steps along k, rounded to bfloat16, side by side.
//!
//! An odd last step is paired with zero.
//!
//! A lane is a row of A or a column of B.

use std::mem::MaybeUninit;
use std::ops::Range;

use multiversion::multiversion;

use crate::matrix::Matrix;
use crate::parallel::{par_chunks, par_new};
use crate::rounding::{round, widen};
use crate::vector::prefetch;

/// Lanes of a micro-panel: a vector register of 16 `f32`, or of 16 pairs.
pub(super) const LANES: usize = 16;

/// Two steps along k of one row or column, as bits of bfloat16.
pub(super) type VnniPair = [u16; 2];

/// Rows that one task packs.
const ROWS_PER_TASK: usize = 64;

/// Rounds `data` to bfloat16 and returns it as `f32`.
pub(super) fn rounded(data: &[f32]) -> Vec<f32> {
    const CHUNK: usize = 1 << 14;
    // SAFETY: `round_each` writes every element.
    unsafe { par_new(data.len(), CHUNK, |index, to| round_each(to, &data[index * CHUNK..])) }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn round_each(to: &mut [MaybeUninit<f32>], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.write(widen(round(*from)));
    }
}

/// Packs rows (m, k), which begin `stride` apart, as rows of pairs (m, ⌈k / 2⌉).
pub(super) fn pack_rows(data: &[f32], stride: usize, m: usize, k: usize) -> Vec<VnniPair> {
    let depth = k.div_ceil(2);
    let write = |index: usize, pairs: &mut [MaybeUninit<VnniPair>]| {
        let data = &data[index * ROWS_PER_TASK * stride..];
        for (row, pairs) in pairs.chunks_exact_mut(depth).enumerate() {
            pack_row(pairs, &data[row * stride..][..k]);
        }
    };
    match k {
        0 => Vec::new(),
        // SAFETY: chunks are whole rows, and of a row every pair is written.
        _ => unsafe { par_new(m * depth, ROWS_PER_TASK * depth, write) },
    }
}

/// A row of k numbers as ⌈k / 2⌉ pairs.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn pack_row(to: &mut [MaybeUninit<VnniPair>], from: &[f32]) {
    let (pairs, rest) = from.as_chunks::<2>();
    for (to, [even, odd]) in to.iter_mut().zip(pairs) {
        to.write([round(*even), round(*odd)]);
    }
    if let ([last], Some(to)) = (rest, to.last_mut()) {
        to.write([round(*last), 0]);
    }
}

/// Micro-panels (⌈lanes / LANES⌉, ⌈k / 2⌉, LANES) of pairs, the last one padded with zeros.
pub(super) struct MicroPanels {
    data: Vec<[VnniPair; LANES]>,
    /// Pairs of steps along k.
    pub(super) depth: usize,
}

impl MicroPanels {
    /// Packs a matrix (lanes, k): A, or the transpose of B. One of its strides is 1.
    pub(super) fn pack(matrix: Matrix<f32>, lanes: usize, k: usize) -> Self {
        /// Micro-panels that one task packs: half a kilobyte for each step.
        const GROUP: usize = 8;
        let (data, lane, step) = (matrix.data, matrix.row_stride, matrix.column_stride);
        let (depth, count) = (k.div_ceil(2), lanes.div_ceil(LANES));
        let lanes_of = |index: usize| (lanes - index * GROUP * LANES).min(GROUP * LANES);
        let panels = match (k, step) {
            (0, _) => Vec::new(),
            (_, 1) => {
                let mut panels = vec![[[0; 2]; LANES]; count * depth];
                par_chunks(&mut panels, GROUP * depth, |index, panels| {
                    let data = &data[index * GROUP * LANES * lane..];
                    pack_lane_by_lane(panels, data, lane, lanes_of(index), k);
                });
                panels
            }
            _ => {
                let write = |index: usize, panels: &mut [MaybeUninit<[VnniPair; LANES]>]| {
                    pack_step_by_step(panels, &data[index * GROUP * LANES..], step, lanes_of(index), k);
                };
                // SAFETY: chunks are whole micro-panels, and of a micro-panel every step is
                // written.
                unsafe { par_new(count * depth, GROUP * depth, write) }
            }
        };
        Self { data: panels, depth }
    }

    /// Some pairs of steps of one micro-panel.
    pub(super) fn panel(&self, index: usize, pairs: Range<usize>) -> &[[VnniPair; LANES]] {
        &self.data[index * self.depth + pairs.start..][..pairs.len()]
    }
}

/// Packs lanes whose steps are contiguous, one lane at a time.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn pack_lane_by_lane(panels: &mut [[VnniPair; LANES]], data: &[f32], stride: usize, lanes: usize, k: usize) {
    let depth = k.div_ceil(2);
    for (panel, to) in panels.chunks_exact_mut(depth).enumerate() {
        for lane in 0..LANES.min(lanes - panel * LANES) {
            let row = &data[(panel * LANES + lane) * stride..][..k];
            let (pairs, rest) = row.as_chunks::<2>();
            for (to, [even, odd]) in to.iter_mut().zip(pairs) {
                to[lane] = [round(*even), round(*odd)];
            }
            if let [last] = rest {
                to[depth - 1][lane] = [round(*last), 0];
            }
        }
    }
}

/// Packs steps whose lanes are contiguous, one step at a time; writes every micro-panel completely.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn pack_step_by_step(
    panels: &mut [MaybeUninit<[VnniPair; LANES]>],
    data: &[f32],
    stride: usize,
    lanes: usize,
    k: usize,
) {
    /// Steps ahead at which a row is prefetched.
    ///
    /// The hardware prefetcher does not reach across the rest of the row.
    const AHEAD: usize = 16;
    let depth = k.div_ceil(2);
    for pair in 0..depth {
        for step in [2 * pair + AHEAD, 2 * pair + 1 + AHEAD] {
            if step < k {
                prefetch(&data[step * stride..][..lanes]);
            }
        }
        for (panel, to) in panels.chunks_exact_mut(depth).enumerate() {
            let lanes = LANES.min(lanes - panel * LANES);
            let row = |step: usize| -> [f32; LANES] {
                let mut row = [0.0; LANES];
                if step < k {
                    let from = &data[step * stride + panel * LANES..];
                    match from.first_chunk::<LANES>() {
                        Some(from) if lanes == LANES => row = *from,
                        _ => row[..lanes].copy_from_slice(&from[..lanes]),
                    }
                }
                row
            };
            let (even, odd) = (row(2 * pair), row(2 * pair + 1));
            to[pair].write(std::array::from_fn(|lane| [round(even[lane]), round(odd[lane])]));
        }
    }
}
