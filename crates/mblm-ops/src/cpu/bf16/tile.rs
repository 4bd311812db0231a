//! The innermost part: a tile of R rows times P panels, whose sums stay in registers.
//!
//! ```text
//! sums[r][p][lane] = Σ a[r][i].even · b[p][i][lane].even + a[r][i].odd · b[p][i][lane].odd    over the pairs of steps i
//! ```

use super::pairs::{LANES, Pair};

/// The sums of a tile.
pub(super) type Sums<const R: usize, const P: usize> = [[[f32; LANES]; P]; R];

/// Whether this processor's vectors multiply bfloat16 faster than `f32`: AMD's do. On one of Intel's with the
/// instruction, which starts half as many of them in a cycle, training with it took 1.6 times as long as with `f32`.
pub(super) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // the question leaves a virtual machine: once a product is seldom enough
        let is_amd = || {
            let maker = std::arch::x86_64::__cpuid(0);
            [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
        };
        is_native() && is_amd()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether this processor multiplies bfloat16 itself.
fn is_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// `sums` become the products of R rows, whose pair (r, i) is `a[r · row + i · step]`, with panels of equal depth.
pub(super) fn tile<const R: usize, const P: usize>(
    a: &[Pair],
    (row, step): (usize, usize),
    b: [&[[Pair; LANES]]; P],
    sums: &mut Sums<R, P>,
) {
    let depth = b[0].len();
    if depth == 0 {
        *sums = [[[0.0; LANES]; P]; R];
        return;
    }
    assert!(a.len() > (R - 1) * row + (depth - 1) * step);
    assert!(b.iter().all(|b| b.len() == depth));
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        // SAFETY: the processor has the features; the assertions above keep every index inside its slice.
        unsafe { native(a, (row, step), b, sums) };
        return;
    }
    portable(a, (row, step), b, sums);
}

/// # Safety
/// The processor has AVX-512F and AVX-512-BF16; panels have one depth, and `a` reaches as far as [`tile`] says.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn native<const R: usize, const P: usize>(
    a: &[Pair],
    (row, step): (usize, usize),
    b: [&[[Pair; LANES]]; P],
    sums: &mut Sums<R, P>,
) {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    /// Thirty-two bfloat16 from the same bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn halves(bits: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes of plain numbers.
        unsafe { std::mem::transmute(bits) }
    }

    let depth = b[0].len();
    let a: [*const Pair; R] = std::array::from_fn(|r| a[r * row..].as_ptr());
    let b: [*const [Pair; LANES]; P] = b.map(<[_]>::as_ptr);
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

/// The same in `f32` arithmetic: slow, and what the native one is tested against.
fn portable<const R: usize, const P: usize>(
    a: &[Pair],
    (row, step): (usize, usize),
    b: [&[[Pair; LANES]]; P],
    sums: &mut Sums<R, P>,
) {
    let widened = |half: u16| f32::from_bits(u32::from(half) << 16);
    let depth = b[0].len();
    for (p, b) in b.into_iter().enumerate() {
        let mut held = [[0.0; LANES]; R];
        for i in 0..depth {
            let a: [Pair; R] = std::array::from_fn(|r| a[r * row + i * step]);
            let b: [Pair; LANES] = b[i];
            for r in 0..R {
                for lane in 0..LANES {
                    held[r][lane] += widened(a[r][0]) * widened(b[lane][0]);
                    held[r][lane] += widened(a[r][1]) * widened(b[lane][1]);
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

    /// Whatever tile this processor takes gives what `f32` arithmetic gives.
    #[test]
    fn tiles_agree() {
        let numbers = |count: usize, seed| -> Vec<u16> {
            let data = crate::testing::uniform(&[count], seed)
                .unwrap()
                .to_vec1::<f64>()
                .unwrap();
            data.into_iter().map(|x| half::bf16::from_f64(x).to_bits()).collect()
        };
        let depth = 37;
        let a: Vec<Pair> = numbers(2 * 16 * depth, 1).as_chunks::<2>().0.to_vec();
        let panels: Vec<[Pair; LANES]> = (0..2 * depth)
            .map(|i| {
                let pairs = numbers(2 * LANES, 10 + i as u64);
                std::array::from_fn(|lane| [pairs[2 * lane], pairs[2 * lane + 1]])
            })
            .collect();
        let b = [&panels[..depth], &panels[depth..]];
        for strides in [(depth, 1), (1, 16)] {
            let (mut found, mut expected) = ([[[0.0; LANES]; 2]; 4], [[[0.0; LANES]; 2]; 4]);
            tile::<4, 2>(&a, strides, b, &mut found);
            portable::<4, 2>(&a, strides, b, &mut expected);
            for (found, expected) in found
                .iter()
                .flatten()
                .flatten()
                .zip(expected.iter().flatten().flatten())
            {
                assert!((found - expected).abs() <= 1e-5, "{found} against {expected}");
            }
        }
    }
}
