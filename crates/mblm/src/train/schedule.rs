//! How long a run is and which learning rate each gradient step has.
//!
//! ```text
//! batches        ⌈⌊target_elements / workers⌋ / elements per batch⌉
//! steps S        ⌊batches / gradient_accumulate_every⌋, of which W = ⌊S · warmup_steps_perc⌋ warm up
//! rate of step s lr · (0.1 + 0.9 · s/W)                       for s < W
//!                lr · (1 + cos(π · (s − W)/(S − W))) / 2      from then on
//! ```

use crate::config::{ElementCount, TrainConfig};

/// The length of a run on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPlan {
    /// Elements (samples or bytes, as the configuration counts) of one batch of one worker.
    pub elements_per_batch: u64,
    /// Batches that one worker trains on.
    pub batches: u64,
    /// Gradient steps.
    pub steps: u64,
}

impl RunPlan {
    /// The plan of a configuration whose samples have `sample_len` bytes, for one of `workers`.
    pub fn new(train: &TrainConfig, sample_len: usize, workers: usize) -> Self {
        let elements_per_batch = match train.target_elements_strategy {
            ElementCount::Batch => train.batch_size as u64,
            ElementCount::Sequence => (train.batch_size as u64).saturating_mul(sample_len as u64),
        };
        let batches = (train.target_elements / workers.max(1) as u64).div_ceil(elements_per_batch.max(1));
        Self {
            elements_per_batch,
            batches,
            steps: batches / train.gradient_accumulate_every.max(1) as u64,
        }
    }
}

/// The learning rate as a function of the gradient step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    rate: f64,
    warmup: u64,
    steps: u64,
}

impl Schedule {
    /// Warm-up over the share `warmup_share` of `steps`, then a cosine to zero.
    pub fn new(rate: f64, steps: u64, warmup_share: f64) -> Self {
        Self {
            rate,
            // the product is rounded, up too from 2^53 steps on
            warmup: ((steps as f64 * warmup_share).floor() as u64).min(steps),
            steps,
        }
    }

    /// The learning rate of gradient step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.rate * (0.1 + 0.9 * step as f64 / self.warmup as f64);
        }
        let cosine = self.steps - self.warmup;
        if cosine == 0 {
            return self.rate;
        }
        let progress = (step - self.warmup) as f64 / cosine as f64;
        self.rate * (1.0 + libm::cos(std::f64::consts::PI * progress)) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_follows_the_cosine() {
        let schedule = Schedule::new(1e-3, 30, 0.1);
        let close = |step, expected: f64| {
            let rate = schedule.rate(step);
            assert!((rate - expected).abs() < 1e-9, "step {step}: {rate} against {expected}");
        };
        close(0, 1e-4);
        close(1, 4e-4);
        close(2, 7e-4);
        close(3, 1e-3);
        close(4, 1e-3 * (1.0 + (std::f64::consts::PI / 27.0).cos()) / 2.0);
        close(30, 0.0);
    }

    #[test]
    fn runs_without_warmup_or_without_steps_have_a_rate() {
        assert_eq!(Schedule::new(1.0, 10, 0.0).rate(0), 1.0);
        assert_eq!(Schedule::new(1.0, 0, 0.1).rate(0), 1.0);
        assert!((Schedule::new(1.0, 4, 1.0).rate(4) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn runs_of_any_length_have_a_plan_and_a_rate() {
        let text = "{target_elements: 18446744073709551615, target_elements_strategy: sequence, batch_size: 4294967296, \
                    learning_rate: 1.0, gradient_accumulate_every: 1}";
        let train: TrainConfig = serde_saphyr::from_str(text).unwrap();
        assert_eq!(RunPlan::new(&train, 1 << 32, 1).batches, 1, "2^64 elements a batch");
        // as a float 2^53 + 4: more than there are
        let steps = (1 << 53) + 3;
        assert_eq!(Schedule::new(1.0, steps, 1.0).rate(steps), 1.0);
    }
}
