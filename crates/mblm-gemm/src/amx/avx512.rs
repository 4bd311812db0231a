//! Vector arithmetic that fills tiles: rounding, transposing and pairing 16 numbers at a time.

use std::arch::x86_64::*;

use super::tile::SIZE;

/// Rounds sixteen numbers to bfloat16 in the upper 16 bits of each element.
///
/// The lower 16 bits are left over and have no meaning.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rounded(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
    _mm512_mask_blend_epi32(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), rounded, quiet)
}

/// Transposes a 16 × 16 matrix of rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &mut [__m512; SIZE]) {
    for four in rows.chunks_exact_mut(4) {
        let low = [
            _mm512_unpacklo_ps(four[0], four[1]),
            _mm512_unpacklo_ps(four[2], four[3]),
        ];
        let high = [
            _mm512_unpackhi_ps(four[0], four[1]),
            _mm512_unpackhi_ps(four[2], four[3]),
        ];
        four[0] = _mm512_shuffle_ps::<0x44>(low[0], low[1]);
        four[1] = _mm512_shuffle_ps::<0xee>(low[0], low[1]);
        four[2] = _mm512_shuffle_ps::<0x44>(high[0], high[1]);
        four[3] = _mm512_shuffle_ps::<0xee>(high[0], high[1]);
    }
    // quarter q of element 4g + c is column 4q + c of rows 4g to 4g + 3
    for c in 0..4 {
        let (a, b, c0, d) = (rows[c], rows[4 + c], rows[8 + c], rows[12 + c]);
        let first = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c0, d)];
        let last = [_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c0, d)];
        rows[c] = _mm512_shuffle_f32x4::<0x88>(first[0], first[1]);
        rows[4 + c] = _mm512_shuffle_f32x4::<0xdd>(first[0], first[1]);
        rows[8 + c] = _mm512_shuffle_f32x4::<0x88>(last[0], last[1]);
        rows[12 + c] = _mm512_shuffle_f32x4::<0xdd>(last[0], last[1]);
    }
}

/// Loads `count` numbers of `data` from `index` on, padded with zeros to sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(data: &[f32], index: usize, count: usize) -> __m512 {
    if count == 0 {
        return _mm512_setzero_ps();
    }
    let data = &data[index..][..count];
    // SAFETY: the mask keeps the load inside `data`, whose length is `count`, at most 16.
    unsafe { _mm512_maskz_loadu_ps((0xffff_u32 >> (SIZE - data.len())) as __mmask16, data.as_ptr()) }
}

/// Alternates the upper halves of `even` and `odd`: sixteen VNNI pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn interleave(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd)
}

/// The upper halves of `first`, then the upper halves of `last`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn concatenate(first: __m512i, last: __m512i) -> __m512i {
    let odd = _mm512_set_epi16(
        63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9,
        7, 5, 3, 1,
    );
    _mm512_permutex2var_epi16(first, odd, last)
}
