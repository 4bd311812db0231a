//! Learning rate schedules. All begin with the same warm-up.
//!
//! ```text
//! steps S, of which the first W warm up and, of WSD, the last C cool down
//!
//! all            lr · (0.1 + 0.9 · s/W)                       for s < W, and from then on
//! cosine         lr · (1 + cos(π · (s − W)/(S − W))) / 2      as published
//! WSD            lr, and lr · (S − s)/C                       for s ≥ S − C  (arXiv 2404.06395)
//! constant       lr
//! ```

use std::fmt;

/// The learning rate as a function of the gradient step.
pub trait Schedule: fmt::Debug + Send + Sync {
    /// The learning rate of gradient step `step`, counted from 0.
    fn lr(&self, step: u64) -> f64;
}

/// A linear rise from a tenth of the highest learning rate, then a cosine to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosine {
    /// The highest learning rate.
    pub lr: f64,
    /// Steps of the rise, at most `steps`.
    pub warmup: u64,
    /// Total steps.
    pub steps: u64,
}

/// A linear rise from a tenth of the highest learning rate, a constant phase, a linear fall to 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmupStableDecay {
    /// The highest learning rate.
    pub lr: f64,
    /// Steps of the rise.
    pub warmup: u64,
    /// Steps of the fall, at the end.
    pub cooldown: u64,
    /// Total steps.
    pub steps: u64,
}

/// A linear rise from a tenth of the learning rate, then constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant {
    /// The learning rate.
    pub lr: f64,
    /// Steps of the rise.
    pub warmup: u64,
}

impl Cosine {
    /// A schedule of `steps` with a warm-up of the share `warmup_share` in [0, 1].
    pub fn new(lr: f64, steps: u64, warmup_share: f64) -> Self {
        Self {
            lr,
            warmup: share_of(steps, warmup_share),
            steps,
        }
    }
}

impl Schedule for Cosine {
    fn lr(&self, step: u64) -> f64 {
        if let Some(lr) = warming_up(self.lr, self.warmup, step) {
            return lr;
        }
        let cosine = self.steps.saturating_sub(self.warmup);
        if cosine == 0 {
            return self.lr;
        }
        let progress = (step - self.warmup) as f64 / cosine as f64;
        self.lr * (1.0 + libm::cos(std::f64::consts::PI * progress)) / 2.0
    }
}

impl Schedule for WarmupStableDecay {
    fn lr(&self, step: u64) -> f64 {
        if let Some(lr) = warming_up(self.lr, self.warmup, step) {
            return lr;
        }
        match self.steps.saturating_sub(step) {
            left if left < self.cooldown => self.lr * (left as f64 / self.cooldown as f64),
            _ => self.lr,
        }
    }
}

impl Schedule for Constant {
    fn lr(&self, step: u64) -> f64 {
        warming_up(self.lr, self.warmup, step).unwrap_or(self.lr)
    }
}

/// The learning rate of a warm-up step; `None` after the warm-up.
fn warming_up(lr: f64, warmup: u64, step: u64) -> Option<f64> {
    (step < warmup).then(|| lr * (0.1 + 0.9 * step as f64 / warmup as f64))
}

/// The number of steps in a share of `steps`, rounded down.
pub(super) fn share_of(steps: u64, share: f64) -> u64 {
    // the product is rounded, from 2^53 steps on also up
    ((steps as f64 * share).floor() as u64).min(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(schedule: &dyn Schedule, step: u64, expected: f64) {
        let lr = schedule.lr(step);
        assert!(
            (lr - expected).abs() < 1e-9,
            "{schedule:?}, step {step}: {lr} against {expected}"
        );
    }

    #[test]
    fn warms_up_then_follows_the_cosine() {
        let schedule = Cosine::new(1e-3, 30, 0.1);
        for (step, expected) in [(0, 1e-4), (1, 4e-4), (2, 7e-4), (3, 1e-3), (30, 0.0)] {
            close(&schedule, step, expected);
        }
        close(&schedule, 4, 1e-3 * (1.0 + (std::f64::consts::PI / 27.0).cos()) / 2.0);
    }

    #[test]
    fn runs_without_warmup_or_without_steps_have_a_rate() {
        assert_eq!(Cosine::new(1.0, 10, 0.0).lr(0), 1.0);
        assert_eq!(Cosine::new(1.0, 0, 0.1).lr(0), 1.0);
        assert!((Cosine::new(1.0, 4, 1.0).lr(4) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn runs_of_any_length_have_a_rate() {
        // as a float 2^53 + 4: more than the steps
        let steps = (1 << 53) + 3;
        assert_eq!(Cosine::new(1.0, steps, 1.0).lr(steps), 1.0);
    }

    #[test]
    fn warms_up_stays_and_cools_down() {
        let schedule = WarmupStableDecay {
            lr: 1e-3,
            warmup: 3,
            cooldown: 5,
            steps: 20,
        };
        let expected = [
            (0, 1e-4),
            (1, 4e-4),
            (3, 1e-3),
            (14, 1e-3),
            (15, 1e-3),
            (16, 8e-4),
            (19, 2e-4),
            (20, 0.0),
            (99, 0.0),
        ];
        for (step, lr) in expected {
            close(&schedule, step, lr);
        }
        let level = WarmupStableDecay {
            cooldown: 0,
            ..schedule
        };
        close(&level, 20, 1e-3);
        let all = WarmupStableDecay {
            warmup: 0,
            cooldown: 20,
            ..schedule
        };
        close(&all, 10, 5e-4);
    }

    #[test]
    fn a_constant_rate_warms_up_and_stays() {
        let schedule = Constant { lr: 0.5, warmup: 10 };
        for (step, lr) in [(0, 0.05), (5, 0.275), (10, 0.5), (u64::MAX, 0.5)] {
            close(&schedule, step, lr);
        }
    }
}
