//! How much of a batch a training step computes at once, so that it fits into memory.
//!
//! Fewer rows of the lower stages cost little time until products become small. Chunks of the first
//! stage, of any size, cost its forward pass a second time. So a step that fits is left whole.
//! Otherwise the first stage goes in chunks that fit beside the lower stages, whose groups shrink
//! only if chunks would get too small. Chunks beyond the busy size are no faster and leave less
//! memory for unplanned use, so they come last.

use super::memory::{MemoryEstimate, Workload};
use super::sizes::{list, sized};
use crate::config::Experiment;
use crate::model::Chunking;
use crate::{Error, Result};
use candle_core::Device;

/// The fewest positions of a chunk: a smaller one would not be worth its states.
const MIN_CHUNK: usize = 256;
/// Positions × width of a chunk with fast products: on an H100, chunks of 22,784 × 1024 and of 8192
/// × 1024 took the same time per byte.
const BUSY_CHUNK: usize = 1 << 23;
/// Memory for the first stage's activations on the CPU without a limit: equal on every machine, so
/// that a run gives the same numbers.
const FIRST_STAGE: u64 = 512 << 20;
/// Safety margin of a GPU estimate, in percent: nine measured peaks were within four.
const MARGIN: u64 = 5;
/// Divisors of the lower stages' groups, in the order tried.
const DIVISORS: [usize; 5] = [1, 2, 4, 8, 16];

/// Returns how much to compute at once so that a step takes at most `memory` bytes. Without a
/// limit, a GPU computes all at once; the CPU's first stage takes at most 512 MiB per sample.
///
/// # Errors
/// No step fits. The message gives the least memory that a step takes, and its consumers.
pub fn chunking_for(work: &Workload<'_>, memory: Option<u64>) -> Result<Chunking> {
    let whole = Chunking::default();
    let of = |chunking| MemoryEstimate::of(&Workload { chunking, ..*work });
    let Some(memory) = memory else {
        let fits = |chunking| of(chunking).stages.first().is_none_or(|first| *first <= FIRST_STAGE);
        let stays = work.gpu || fits(whole);
        let mut cut = sizes(work).map(|positions| Chunking { positions, rows: None });
        return Ok(match stays {
            true => whole,
            false => cut.find(|chunking| fits(*chunking)).unwrap_or_default(),
        });
    };
    let mut least = of(whole);
    let spare = if work.gpu { memory / 100 * MARGIN } else { 0 };
    for divisor in DIVISORS {
        let group = (work.rows_at_once() / divisor).max(1);
        let rows = (divisor > 1).then_some(group);
        // a small chunk is no better than small groups
        let worth = |size: &Option<usize>| size.is_none_or(|size| size >= group / DIVISORS[DIVISORS.len() - 1]);
        for positions in std::iter::once(None).chain(sizes(work)).filter(worth) {
            let chunking = Chunking { positions, rows };
            let estimate = of(chunking);
            if estimate.total() <= memory - spare {
                return Ok(chunking);
            }
            if estimate.total() < least.total() {
                least = estimate;
            }
        }
    }
    Err(too_much(&least, memory))
}

impl Workload<'_> {
    /// Chooses chunks that fit into `memory` bytes: see [`chunking_for`].
    ///
    /// # Errors
    /// Nothing fits.
    pub fn fitted(self, memory: Option<u64>) -> Result<Self> {
        let chunking = chunking_for(&self, memory)?;
        Ok(Self { chunking, ..self })
    }
}

/// Estimates the memory of training on `device`, without the program itself.
///
/// The first stage goes in chunks as [`chunking_for`] says, if possible.
pub fn estimate_memory(experiment: &Experiment, device: &Device) -> MemoryEstimate {
    let work = Workload::of(experiment, device);
    let fitted = work.fitted(experiment.train.memory.map(|size| size.as_u64()));
    MemoryEstimate::of(&fitted.unwrap_or(work))
}

/// Chunk sizes to try: from [`BUSY_CHUNK`] down to [`MIN_CHUNK`], then larger ones up to half of
/// all positions, which need fewer states; none if the first stage cannot go in chunks.
fn sizes(work: &Workload<'_>) -> impl Iterator<Item = Option<usize>> {
    let positions = work.positions();
    let half = positions.div_ceil(2).next_multiple_of(MIN_CHUNK);
    let width = work.architecture.model().hidden_dims[0].max(1);
    let enough = (BUSY_CHUNK / width)
        .max(MIN_CHUNK)
        .next_multiple_of(MIN_CHUNK)
        .min(half);
    let smaller = |size: &usize| (*size > MIN_CHUNK).then(|| (size / 4 * 3).max(MIN_CHUNK) / MIN_CHUNK * MIN_CHUNK);
    let larger = move |size: &usize| (*size < half).then(|| size.saturating_mul(2).min(half));
    std::iter::successors(Some(enough), smaller)
        .chain(std::iter::successors(larger(&enough), larger))
        .filter(move |size| *size < positions)
        .map(Some)
        .take(if work.takes_chunks() { usize::MAX } else { 0 })
}

fn too_much(least: &MemoryEstimate, memory: u64) -> Error {
    let consumers = least.consumers();
    Error::config(format!(
        "a training step needs at least {}, even in the smallest chunks, but only {} are allowed: {}; lower the \
         settings in parentheses, or allow more with --memory",
        sized(least.total(), 2),
        sized(memory, 2),
        list(&consumers[..consumers.len().min(3)], 2)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockConfig, Mamba1, Mamba2, Transformer};
    use crate::config::{Architecture, ModelConfig, Precision};

    fn architecture(first: impl Into<BlockConfig>) -> Architecture {
        let model = ModelConfig::new([8192, 16, 8]).blocks(Transformer::new(4, 64));
        model.block(0, first).into()
    }

    fn work(architecture: &Architecture, len: usize, gpu: bool) -> Workload<'_> {
        Workload {
            architecture,
            batch_size: 1,
            len,
            precision: Precision::Auto,
            gpu,
            chunking: Chunking::default(),
            moments: 2,
        }
    }

    #[test]
    fn what_fits_is_computed_at_once() {
        let architecture = architecture(Mamba2::new(64, 64));
        let short = work(&architecture, 8192, false);
        assert_eq!(chunking_for(&short, None).unwrap(), Chunking::default());
        let long = work(&architecture, 1 << 24, true);
        assert_eq!(chunking_for(&long, None).unwrap(), Chunking::default());
        assert_eq!(chunking_for(&long, Some(u64::MAX)).unwrap(), Chunking::default());
    }

    #[test]
    fn the_largest_chunks_that_fit_are_taken_up_to_what_is_enough() {
        let architecture = architecture(Mamba2::new(64, 64));
        let long = work(&architecture, 1 << 27, false);
        let much = chunking_for(&long, Some(64 << 30)).unwrap().positions;
        assert_eq!(much, Some(BUSY_CHUNK / 256));
        for memory in [7u64 << 30, 8 << 30, 9 << 30] {
            let chunking = chunking_for(&long, Some(memory)).unwrap();
            let positions = chunking.positions.unwrap();
            let of = |positions| {
                let chunking = Chunking {
                    positions: Some(positions),
                    ..chunking
                };
                MemoryEstimate::of(&Workload { chunking, ..long }).total()
            };
            assert!(of(positions) <= memory, "{memory}: {chunking:?}");
            assert!(of(2 * positions) > memory, "{memory}: {chunking:?}");
        }
        let by_itself = chunking_for(&long, None).unwrap().positions.unwrap();
        assert!((MIN_CHUNK..8192).contains(&by_itself));
    }

    #[test]
    fn what_cannot_fit_is_said() {
        let long = architecture(Mamba2::new(64, 64));
        let error = chunking_for(&work(&long, 1 << 24, false), Some(1 << 20)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("only 1.00 MiB are allowed") && text.contains("--memory"),
            "{text}"
        );
        // with dropout the whole first stage is kept
        let dropout = architecture(Mamba2::new(64, 64).dropout(0.1));
        assert!(chunking_for(&work(&dropout, 1 << 24, false), Some(2 << 30)).is_err());
        assert_eq!(
            chunking_for(&work(&dropout, 1 << 24, false), None).unwrap(),
            Chunking::default()
        );
    }

    #[test]
    fn a_first_stage_goes_in_chunks_where_its_block_tells_that_it_has_no_dropout() {
        let takes = |architecture: &Architecture| work(architecture, 1 << 24, false).takes_chunks();
        let mut ignored = Mamba1::new(16);
        ignored.dropout = 0.5;
        assert!(takes(&architecture(ignored)));
        assert!(takes(&architecture(Mamba2::new(64, 64))));
        assert!(!takes(&architecture(Mamba2::new(64, 64).dropout(0.5))));
        assert!(!takes(&architecture(Transformer::new(4, 64).ff_dropout(0.5))));
    }
}
