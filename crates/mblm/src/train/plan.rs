//! The length of a run.
//!
//! ```text
//! batches        ⌈⌊target_elements / workers⌋ / elements per batch⌉
//! steps          ⌊batches / gradient_accumulate_every⌋
//! ```

use crate::config::{ElementCount, TrainConfig};

/// The length of a run, for each of its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// Elements (samples or bytes, as configured) of one batch of one worker.
    pub elements_per_batch: u64,
    /// Batches that one worker trains on.
    pub batches: u64,
    /// Gradient steps.
    pub steps: u64,
}

impl RunPlan {
    /// The plan of a configuration whose samples have `sample_len` bytes.
    pub fn new(train: &TrainConfig, sample_len: usize) -> Self {
        let elements_per_batch = match train.target_elements_strategy {
            ElementCount::Batch => train.batch_size as u64,
            ElementCount::Sequence => (train.batch_size as u64).saturating_mul(sample_len as u64),
        };
        let workers = train.worker_count().max(1) as u64;
        let batches = (train.target_elements / workers).div_ceil(elements_per_batch.max(1));
        Self {
            elements_per_batch,
            batches,
            steps: batches / train.grad_accum.max(1) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_any_length_have_a_plan() {
        let text = "{target_elements: 18446744073709551615, target_elements_strategy: sequence, batch_size: 4294967296, \
                    learning_rate: 1.0, gradient_accumulate_every: 1}";
        let train: TrainConfig = serde_saphyr::from_str(text).unwrap();
        assert_eq!(RunPlan::new(&train, 1 << 32).batches, 1, "2^64 elements a batch");
    }
}
