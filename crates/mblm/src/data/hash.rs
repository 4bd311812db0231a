//! Keys of all randomness in the data: a hash of (seed, epoch, index, …), so no state is kept or
//! saved.
//!
//! The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood 2014, constants of its
//! variant 13 by Stafford).

/// Mixes 64 bits bijectively; every input bit flips about half of the output bits.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Returns one key from several numbers; their order matters.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |state: u64, part| {
        mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_the_finaliser_of_splitmix64() {
        // the first output of SplitMix64 with seed 0, as in its published test vectors
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn keys_depend_on_every_part_and_their_order() {
        assert_ne!(key(&[1, 2]), key(&[2, 1]));
        assert_ne!(key(&[1]), key(&[1, 0]));
        assert_ne!(key(&[0]), key(&[0, 0]));
        assert_eq!(key(&[3, 4, 5]), key(&[3, 4, 5]));
    }
}
