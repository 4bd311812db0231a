//! A shuffled order of any length without a stored list: a seeded bijection of 0…len−1, computed
//! element by element.
//!
//! A balanced Feistel network of 8 rounds permutes the smallest range of 2^(2h) ≥ len numbers:
//! (l, r) → (r, l ⊕ F(r)). A result outside 0…len−1 passes through the network again until it is
//! inside ("cycle walking", Black and Rogaway 2002): on average under 4 passes, as 2^(2h) < 4·len.

use super::hash::{key, mix};

const ROUNDS: usize = 8;

/// A permutation of `0..len`, given by (seed, epoch) alone.
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// Returns the permutation of `0..len` for one epoch of a run with this seed.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| key(&[seed, epoch, round as u64]));
        Self {
            len,
            half_bits: bits.div_ceil(2).max(1),
            keys,
        }
    }

    /// Returns the image of `index`; `index` itself if it is not below the length.
    pub fn at(&self, index: u64) -> u64 {
        if index >= self.len {
            return index;
        }
        let mut value = self.network(index);
        // terminates: the walk of a bijection returns at the latest to `index`, which is below len
        while value >= self.len {
            value = self.network(value);
        }
        value
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_bijection(len in 0u64..3000, seed: u64, epoch: u64) {
            let permutation = Permutation::new(len, seed, epoch);
            let mut values: Vec<u64> = (0..len).map(|index| permutation.at(index)).collect();
            values.sort_unstable();
            prop_assert_eq!(values, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn stays_within_any_length(len in 1u64.., index: u64, seed: u64) {
            let permutation = Permutation::new(len, seed, 0);
            prop_assert!(permutation.at(index % len) < len);
        }
    }

    #[test]
    fn differs_between_epochs_and_seeds_and_is_reproducible() {
        let order = |seed, epoch| -> Vec<u64> {
            let permutation = Permutation::new(1000, seed, epoch);
            (0..1000).map(|index| permutation.at(index)).collect()
        };
        assert_eq!(order(7, 3), order(7, 3));
        assert_ne!(order(7, 3), order(7, 4));
        assert_ne!(order(7, 3), order(8, 3));
    }

    #[test]
    fn looks_shuffled() {
        // random permutation of n: the mean of |value − index| is n/3, half of the neighbors rise
        const N: u64 = 100_000;
        let permutation = Permutation::new(N, 1, 0);
        let values: Vec<u64> = (0..N).map(|index| permutation.at(index)).collect();
        let moved: u64 = values
            .iter()
            .zip(0..N)
            .map(|(value, index)| value.abs_diff(index))
            .sum();
        let rising = values.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((moved as f64 / (N * N) as f64 - 1.0 / 3.0).abs() < 0.01, "{moved}");
        assert!((rising as f64 / N as f64 - 0.5).abs() < 0.01, "{rising}");
    }
}
