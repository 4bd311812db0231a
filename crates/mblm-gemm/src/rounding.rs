//! Rounding to bfloat16, the upper half of an `f32`; ties to even.

/// The bits of the bfloat16 nearest to `x`, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000; // rounding could turn the bits of a NaN into a number
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

/// The number with these bfloat16 bits.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::numbers;

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
        let ties = (0..64u32).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        for x in edges.into_iter().chain(numbers(1000, 1)).chain(ties) {
            assert_eq!(round(x), half::bf16::from_f32(x).to_bits(), "{x}");
            assert_eq!(widen(round(x)), half::bf16::from_f32(x).to_f32(), "{x}");
        }
        for bits in [0x7fff_ffffu32, 0x7f80_0001, 0xffff_ffff] {
            assert!(widen(round(f32::from_bits(bits))).is_nan(), "{bits:x}");
        }
    }
}
