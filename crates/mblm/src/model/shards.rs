//! Shards of a training pass: parts of a batch that go side by side, forward and backward, each on a thread of its own.
//!
//! Threads that share every operation wait for each other at the end of each, and read what others have written. Shards write nothing in
//! common: each adds to gradients of its own, which are added to the caller's in the order of the shards. The samples of a batch
//! are cut into shards where that gives equal parts, else the sequences of the second stage. A thread whose shard is done takes
//! pieces of the operations of others.
//!
//! How many shards there are depends on the model and the batch alone, never on the number of threads, and so do the sums. Shards
//! are for small models, whose operations are short; a GPU has none.

/// Shards.
const MAX_SHARDS: usize = 4;
/// Bytes of a shard: the gradients of fewer would take as long to add as to compute.
const MIN_BYTES: usize = 1024;
/// Numbers in the gradients of all shards but the first, which adds to the caller's: 128 MiB of `f32`.
const MAX_EXTRA: u64 = 1 << 25;

/// What decides about shards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    /// Parameters of the model.
    pub(crate) parameters: u64,
    pub(crate) stages: usize,
    /// Samples, and how many of them are computed at once.
    pub(crate) batch: usize,
    pub(crate) at_once: usize,
    /// Bytes of a sample.
    pub(crate) len: usize,
    /// Whether samples go one after another, in chunks.
    pub(crate) in_chunks: bool,
}

/// Into how many shards a pass is cut, and where: at most one number is not 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Shards of samples, which divide the batch.
    pub(crate) samples: usize,
    /// Most shards of sequences of the second stage.
    pub(crate) sequences: usize,
}

impl Shards {
    pub(crate) const NONE: Self = Self {
        samples: 1,
        sequences: 1,
    };

    pub(crate) fn of(split: Split) -> Self {
        let extra = MAX_EXTRA / split.parameters.max(1);
        let most = MAX_SHARDS.min(usize::try_from(extra).unwrap_or(MAX_SHARDS).saturating_add(1));
        let fitting = |bytes| {
            (2..=most)
                .rev()
                .filter(move |shards| shards.is_power_of_two() && shards * MIN_BYTES <= bytes)
        };
        let bytes = split.batch.saturating_mul(split.len);
        let of_samples = fitting(bytes)
            .find(|shards| split.batch.is_multiple_of(*shards) && *shards <= split.at_once && !split.in_chunks);
        match of_samples {
            Some(samples) => Self { samples, ..Self::NONE },
            None if split.stages > 1 => Self {
                sequences: fitting(split.at_once.min(split.batch).saturating_mul(split.len))
                    .next()
                    .unwrap_or(1),
                ..Self::NONE
            },
            None => Self::NONE,
        }
    }

    /// All shards.
    pub(crate) fn count(self) -> usize {
        self.samples * self.sequences
    }

    /// Shards of sequences that have so many bytes together.
    pub(super) fn of_sequences(self, bytes: usize) -> usize {
        match bytes >= self.sequences * MIN_BYTES {
            true => self.sequences,
            false => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_equal_parts_of_a_batch_or_cut_below_the_first_stage() {
        let split = Split {
            parameters: 5_000_000,
            stages: 2,
            batch: 4,
            at_once: 16,
            len: 2048,
            in_chunks: false,
        };
        let of = |split: Split| {
            let Shards { samples, sequences } = Shards::of(split);
            (samples, sequences)
        };
        assert_eq!(of(split), (4, 1));
        assert_eq!(of(Split { batch: 6, ..split }), (2, 1));
        assert_eq!(of(Split { batch: 3, ..split }), (1, 4));
        assert_eq!(
            of(Split {
                batch: 3,
                stages: 1,
                ..split
            }),
            (1, 1)
        );
        assert_eq!(of(Split { at_once: 3, ..split }), (2, 1));
        assert_eq!(of(Split { at_once: 1, ..split }), (1, 2));
        assert_eq!(
            of(Split {
                in_chunks: true,
                ..split
            }),
            (1, 4)
        );
        assert_eq!(of(Split { len: 600, ..split }), (2, 1));
        assert_eq!(of(Split { len: 200, ..split }), (1, 1));
        assert_eq!(
            of(Split {
                parameters: 20_000_000,
                ..split
            }),
            (2, 1)
        );
        assert_eq!(
            of(Split {
                parameters: 40_000_000,
                ..split
            }),
            (1, 1)
        );
        assert_eq!(
            of(Split {
                len: usize::MAX,
                ..split
            }),
            (4, 1)
        );
    }
}
