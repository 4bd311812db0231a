//! The micro-kernel: a tile of R rows times P micro-panels of B, whose sums stay in registers.
//!
//! ```text
//! sums[r][p][lane] = Σ a[r][i].even · b[p][i][lane].even + a[r][i].odd · b[p][i][lane].odd    over the pairs of steps i
//! ```

use super::vnni::{LANES, VnniPair};
use crate::processor::processor;
use crate::rounding::widen;

/// The sums of a tile.
pub(super) type Sums<const R: usize, const P: usize> = [[[f32; LANES]; P]; R];

/// R rows of packed A, starting at row 0.
#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a> {
    pub(super) pairs: &'a [VnniPair],
    /// Pairs from one row to the next.
    pub(super) row_stride: usize,
    /// Pairs from one pair of steps to the next.
    pub(super) step_stride: usize,
}

/// Sets `sums` to the products of R rows with micro-panels of equal depth.
pub(super) fn multiply<const R: usize, const P: usize>(
    a: PackedRows,
    b: [&[[VnniPair; LANES]]; P],
    sums: &mut Sums<R, P>,
) {
    let depth = b[0].len();
    if depth == 0 {
        *sums = [[[0.0; LANES]; P]; R];
        return;
    }
    assert!(a.pairs.len() > (R - 1) * a.row_stride + (depth - 1) * a.step_stride);
    assert!(b.iter().all(|b| b.len() == depth));
    #[cfg(target_arch = "x86_64")]
    if processor().avx512_bf16 {
        // SAFETY: the processor has the features; the assertions above keep every index inside its
        // slice.
        unsafe { native(a, b, sums) };
        return;
    }
    portable(a, b, sums);
}

/// # Safety
/// The processor has AVX-512F and AVX-512-BF16; micro-panels have one depth, and `a` reaches as far
/// as [`multiply`] says.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn native<const R: usize, const P: usize>(a: PackedRows, b: [&[[VnniPair; LANES]]; P], sums: &mut Sums<R, P>) {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    /// Reinterprets bits as thirty-two bfloat16 numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn halves(bits: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes of plain numbers.
        unsafe { std::mem::transmute(bits) }
    }

    let depth = b[0].len();
    let step = a.step_stride;
    let a: [*const VnniPair; R] = std::array::from_fn(|r| a.pairs[r * a.row_stride..].as_ptr());
    let b: [*const [VnniPair; LANES]; P] = b.map(<[_]>::as_ptr);
    let mut held: [[__m512; P]; R] = [[_mm512_setzero_ps(); P]; R];
    for i in 0..depth {
        // SAFETY: the caller vouches for both indices; loads need no alignment.
        let (a, b): ([__m512bh; R], [__m512bh; P]) = unsafe {
            (
                std::array::from_fn(|r| halves(_mm512_set1_epi32(a[r].add(i * step).cast::<i32>().read_unaligned()))),
                std::array::from_fn(|p| halves(_mm512_loadu_si512(b[p].add(i).cast()))),
            )
        };
        for r in 0..R {
            for p in 0..P {
                held[r][p] = _mm512_dpbf16_ps(held[r][p], a[r], b[p]);
            }
        }
    }
    for (sums, held) in sums.as_flattened_mut().iter_mut().zip(held.as_flattened()) {
        // SAFETY: an array of 16 `f32`.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *held) };
    }
}

/// The reference implementation in `f32` arithmetic, which is slow.
fn portable<const R: usize, const P: usize>(a: PackedRows, b: [&[[VnniPair; LANES]]; P], sums: &mut Sums<R, P>) {
    let depth = b[0].len();
    for (p, b) in b.into_iter().enumerate() {
        let mut held = [[0.0; LANES]; R];
        for i in 0..depth {
            let a: [VnniPair; R] = std::array::from_fn(|r| a.pairs[r * a.row_stride + i * a.step_stride]);
            let b: [VnniPair; LANES] = b[i];
            for r in 0..R {
                for lane in 0..LANES {
                    held[r][lane] += widen(a[r][0]) * widen(b[lane][0]);
                    held[r][lane] += widen(a[r][1]) * widen(b[lane][1]);
                }
            }
        }
        for (sums, held) in sums.iter_mut().zip(held) {
            sums[p] = held;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::round;
    use crate::test_data::numbers;

    /// Native instructions give the same results as the reference implementation.
    #[test]
    fn the_micro_kernel_is_the_reference_implementation() {
        let pairs = |count: usize, seed| -> Vec<VnniPair> {
            let bits: Vec<u16> = numbers(2 * count, seed).into_iter().map(round).collect();
            bits.as_chunks::<2>().0.to_vec()
        };
        let depth = 37;
        let a = pairs(16 * depth, 1);
        let panels = pairs(2 * LANES * depth, 2);
        let (panels, _) = panels.as_chunks::<LANES>();
        let b = [&panels[..depth], &panels[depth..]];
        for (row_stride, step_stride) in [(depth, 1), (1, 16)] {
            let a = PackedRows {
                pairs: &a,
                row_stride,
                step_stride,
            };
            let (mut found, mut expected) = ([[[0.0; LANES]; 2]; 4], [[[0.0; LANES]; 2]; 4]);
            multiply::<4, 2>(a, b, &mut found);
            portable::<4, 2>(a, b, &mut expected);
            let expected = expected.as_flattened().as_flattened();
            for (found, expected) in found.as_flattened().as_flattened().iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-5, "{found} against {expected}");
            }
        }
    }
}
