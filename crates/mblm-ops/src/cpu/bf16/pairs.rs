//! Operands rounded to bfloat16, two steps along k side by side; an odd last step is paired with zero.

use std::mem::MaybeUninit;

use multiversion::multiversion;

use crate::cpu::{par_chunks, par_new, prefetch};

/// Lanes of a panel: a vector register of 16 `f32`, or of 16 pairs.
pub(super) const LANES: usize = 16;

/// Two steps along k of one row or column, as bits of bfloat16.
pub(super) type Pair = [u16; 2];

/// Rows that one task rounds.
const ROWS: usize = 64;

/// The bits of the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub(in crate::cpu) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000; // rounding could turn a NaN's bits into those of a number
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

/// `data` rounded, as `f32` again.
pub(super) fn rounded(data: &[f32]) -> Vec<f32> {
    const PIECE: usize = 1 << 14;
    // SAFETY: `round_each` writes every element.
    unsafe { par_new(data.len(), PIECE, |index, to| round_each(to, &data[index * PIECE..])) }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn round_each(to: &mut [MaybeUninit<f32>], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.write(f32::from_bits(u32::from(round(*from)) << 16));
    }
}

/// Rows (m, k) that lie `stride` apart, as rows of pairs (m, ⌈k / 2⌉).
pub(super) fn rows(data: &[f32], stride: usize, (m, k): (usize, usize)) -> Vec<Pair> {
    let depth = k.div_ceil(2);
    let write = |index: usize, pairs: &mut [MaybeUninit<Pair>]| {
        let data = &data[index * ROWS * stride..];
        for (row, pairs) in pairs.chunks_exact_mut(depth).enumerate() {
            round_row(pairs, &data[row * stride..][..k]);
        }
    };
    match k {
        0 => Vec::new(),
        // SAFETY: chunks are whole rows, and of a row every pair is written.
        _ => unsafe { par_new(m * depth, ROWS * depth, write) },
    }
}

/// Writes ⌈k / 2⌉ pairs.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn round_row(to: &mut [MaybeUninit<Pair>], from: &[f32]) {
    let (pairs, rest) = from.as_chunks::<2>();
    for (to, [even, odd]) in to.iter_mut().zip(pairs) {
        to.write([round(*even), round(*odd)]);
    }
    if let ([last], Some(to)) = (rest, to.last_mut()) {
        to.write([round(*last), 0]);
    }
}

/// Lanes and steps as panels (⌈lanes / LANES⌉, ⌈k / 2⌉, LANES) of pairs, the last one filled up with zeros.
pub(super) struct Panels {
    data: Vec<[Pair; LANES]>,
    /// Pairs of steps.
    pub(super) depth: usize,
}

impl Panels {
    /// From elements (lanes, k) that lie `lane` and `step` apart, of which one is 1.
    pub(super) fn new(data: &[f32], (lane, step): (usize, usize), (lanes, k): (usize, usize)) -> Self {
        /// Panels that a task fills: half a kilobyte of each step.
        const GROUP: usize = 8;
        let (depth, count) = (k.div_ceil(2), lanes.div_ceil(LANES));
        let lanes_of = |index: usize| (lanes - index * GROUP * LANES).min(GROUP * LANES);
        let panels = match (k, step) {
            (0, _) => Vec::new(),
            (_, 1) => {
                let mut panels = vec![[[0; 2]; LANES]; count * depth];
                par_chunks(&mut panels, GROUP * depth, |index, panels| {
                    let data = &data[index * GROUP * LANES * lane..];
                    fill_across(panels, data, lane, (lanes_of(index), k));
                });
                panels
            }
            _ => {
                let write = |index: usize, panels: &mut [MaybeUninit<[Pair; LANES]>]| {
                    fill_along(panels, &data[index * GROUP * LANES..], step, (lanes_of(index), k));
                };
                // SAFETY: chunks are whole panels, and of a panel every step is written.
                unsafe { par_new(count * depth, GROUP * depth, write) }
            }
        };
        Self { data: panels, depth }
    }

    /// `count` pairs of steps from pair `first` on of one panel.
    pub(super) fn panel(&self, index: usize, (first, count): (usize, usize)) -> &[[Pair; LANES]] {
        &self.data[index * self.depth + first..][..count]
    }
}

/// From steps that lie one after another, lane for lane.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn fill_across(panels: &mut [[Pair; LANES]], data: &[f32], stride: usize, (lanes, k): (usize, usize)) {
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

/// From lanes that lie one after another, step for step; writes all of every panel.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+fma", "x86_64+avx2+fma"))]
fn fill_along(panels: &mut [MaybeUninit<[Pair; LANES]>], data: &[f32], stride: usize, (lanes, k): (usize, usize)) {
    /// How many steps before its turn a row is asked for: the processor's own foresight does not reach across the rest of it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let edges = [
            0.0,
            -0.0,
            1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
        ];
        let random = crate::testing::uniform(&[1000], 1).unwrap().to_vec1::<f64>().unwrap();
        let ties = (0..64u32).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        for x in edges
            .into_iter()
            .chain(random.into_iter().map(|x| x as f32))
            .chain(ties)
        {
            assert_eq!(round(x), half::bf16::from_f32(x).to_bits(), "{x}");
        }
        for bits in [0x7fff_ffffu32, 0x7f80_0001, 0xffff_ffff] {
            assert!(half::bf16::from_bits(round(f32::from_bits(bits))).is_nan(), "{bits:x}");
        }
    }
}
