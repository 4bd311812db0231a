//! Shards of a training pass: parts of a batch that run side by side, each on its own thread.
//!
//! Threads that share every operation wait for each other after each, and read each other's
//! results. Shards share no writes: each adds to its own gradients, which are then added to the
//! caller's in shard order. Samples are divided into shards if the parts are equal, otherwise the
//! sequences of the second stage. A thread whose shard is done helps with the others' operations.
//!
//! The number of shards, and thus the order of sums, depends on the model and the batch, never on
//! the number of threads. Shards are for small models, whose operations are short; a GPU has none.

/// Most shards of a pass.
const MAX_SHARDS: usize = 4;
/// Least bytes of a shard: with fewer, adding the gradients would take as long as computing them.
const MIN_BYTES: usize = 1024;
/// Most gradient values of all shards but the first, which uses the caller's: 128 MiB of `f32`.
const MAX_EXTRA: u64 = 1 << 25;

/// The quantities that decide the number of shards.
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
    /// Whether samples run one after another, in chunks.
    pub(crate) in_chunks: bool,
}

/// The number of shards of a pass: at most one field is not 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Shards of samples; divides the batch.
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

    /// The total number of shards.
    pub(crate) fn count(self) -> usize {
        self.samples * self.sequences
    }

    /// The number of shards for sequences of `bytes` bytes in total.
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
