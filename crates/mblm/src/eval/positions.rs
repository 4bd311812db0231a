//! The mean loss by position in the context: whether a model benefits from a longer context.
//!
//! Positions 0 … C − 1 of a window fall into buckets: 0, 1, 2–3, 4–7, … doubling, as the benefit of
//! context grows with its logarithm; or n of (nearly) equal size, the i-th from ⌈i·C/n⌉ on.

use std::ops::Range;

use super::{ByteScore, Score};
use crate::{Error, Result};

/// The grouping of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// 0, 1, 2–3, 4–7, …
    Doubling,
    /// This many buckets of equal size.
    Equal(usize),
}

/// Scores by position in the context.
#[derive(Clone, Debug)]
pub struct ByPosition {
    context: usize,
    buckets: Buckets,
    scores: Vec<Score>,
}

impl ByPosition {
    /// Creates empty buckets for the positions of a context.
    ///
    /// # Errors
    /// A context of fewer than 2 bytes (nothing to compare); no buckets, or more than positions.
    pub fn new(context: usize, buckets: Buckets) -> Result<Self> {
        if context < 2 {
            return Err(Error::input(format!(
                "by position: expected a context of at least 2 bytes, found {context}; give a longer one"
            )));
        }
        let count = match buckets {
            Buckets::Doubling => doubling(context - 1) + 1,
            Buckets::Equal(count) if (1..=context).contains(&count) => count,
            Buckets::Equal(count) => {
                return Err(Error::input(format!(
                    "by position: expected 1 to {context} buckets, as many as the context has bytes, found {count}"
                )));
            }
        };
        Ok(Self {
            context,
            buckets,
            scores: vec![Score::default(); count],
        })
    }

    /// Adds a byte. A position beyond the context counts as the last one.
    pub fn count(&mut self, byte: &ByteScore) {
        let position = byte.position.min(self.context - 1);
        let bucket = match self.buckets {
            Buckets::Doubling => doubling(position),
            // below the number of buckets, since the position is below the context
            Buckets::Equal(count) => (position as u128 * count as u128 / self.context as u128) as usize,
        };
        self.scores[bucket].count(byte);
    }

    /// The non-empty buckets in order: positions and score.
    pub fn rows(&self) -> impl Iterator<Item = (Range<usize>, Score)> + '_ {
        let rows = self.scores.iter().enumerate();
        rows.filter(|(_, score)| score.bytes > 0)
            .map(|(bucket, score)| (self.begin(bucket)..self.begin(bucket + 1), *score))
    }

    /// The first position of a bucket; the context for the bucket after the last.
    fn begin(&self, bucket: usize) -> usize {
        match self.buckets {
            Buckets::Doubling if bucket == 0 => 0,
            Buckets::Doubling => u32::try_from(bucket - 1)
                .ok()
                .and_then(|exponent| 1usize.checked_shl(exponent))
                .map_or(self.context, |begin| begin.min(self.context)),
            // at most the context, since the bucket is at most their number
            Buckets::Equal(count) => (bucket as u128 * self.context as u128).div_ceil(count as u128) as usize,
        }
    }
}

/// The bucket of a position: bucket 0 for position 0, then one for each power of 2.
fn doubling(position: usize) -> usize {
    position.checked_ilog2().map_or(0, |exponent| exponent as usize + 1)
}
