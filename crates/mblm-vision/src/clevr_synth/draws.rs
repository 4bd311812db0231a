//! Random draws, the same on every machine: a generator seeded by the purpose of the draws.

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use mblm::data::hash::key;

/// A stream of draws.
pub(super) struct Draws(Pcg64Mcg);

impl Draws {
    /// Returns the stream of (seed, split, image, …).
    pub(super) fn new(parts: &[u64]) -> Self {
        Self(Pcg64Mcg::seed_from_u64(key(parts)))
    }

    /// Draws uniformly from [0, 1).
    pub(super) fn unit(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Draws uniformly from [−bound, bound).
    pub(super) fn within(&mut self, bound: f32) -> f32 {
        bound * (2.0 * self.unit() - 1.0)
    }

    /// Draws uniformly from 0…count−1; returns 0 if `count` is 0.
    pub(super) fn below(&mut self, count: usize) -> usize {
        // the high half of a product: the bias is below count/2⁶⁴
        ((u128::from(self.0.next_u64()) * count as u128) >> 64) as usize
    }

    /// Returns true with probability one half.
    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Draws one of the elements.
    pub(super) fn pick<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.below(among.len()))
    }

    /// Draws an index with a probability proportional to its weight.
    pub(super) fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f32>();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        weights.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_spread_as_they_should() {
        let mut draws = Draws::new(&[3, 1]);
        let (mut sum, mut counts) = (0.0, [0_i32; 3]);
        for _ in 0..30_000 {
            sum += f64::from(draws.unit());
            counts[draws.weighted(&[1.0, 2.0, 3.0])] += 1;
            assert!(draws.below(7) < 7);
        }
        assert!((sum / 30_000.0 - 0.5).abs() < 0.01);
        for (count, share) in counts.iter().zip([5_000, 10_000, 15_000]) {
            assert!((count - share).abs() < 500, "{counts:?}");
        }
        assert_eq!(draws.pick::<u8>(&[]), None);
    }
}
