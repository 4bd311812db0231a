//! How a model is trained on batches: optimizer, learning rates, accumulation, clipping, precision.

use std::sync::Arc;

use super::optimizer::{Adam, AdamW, OptimizerSpec, Sgd};
use super::plan::RunPlan;
use super::schedule::{Constant, Cosine, Schedule, WarmupStableDecay, share_of};
use crate::config::{OptimizerKind, Precision, ScheduleKind, TrainConfig};
use crate::model::Chunking;

/// The settings of training on batches.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recipe {
    /// The optimizer.
    pub optimizer: Arc<dyn OptimizerSpec>,
    /// The learning rate of each gradient step.
    pub schedule: Arc<dyn Schedule>,
    /// Batches averaged for one step.
    pub grad_accum: usize,
    /// The largest global L2 norm of the gradient of a step; `None` means no clipping.
    pub max_grad_norm: Option<f64>,
    /// Seed of the dropout masks.
    pub seed: u64,
    /// Precision of the linear layers in training; inference is exact.
    pub precision: Precision,
    /// How much of a batch to compute at once.
    pub chunking: Chunking,
}

impl Recipe {
    /// Adam as published with a constant learning rate, a step every batch, no clipping.
    pub fn new(lr: f64) -> Self {
        Self {
            optimizer: Arc::new(Adam::default()),
            schedule: Arc::new(Constant { lr, warmup: 0 }),
            grad_accum: 1,
            max_grad_norm: None,
            seed: 0,
            precision: Precision::default(),
            chunking: Chunking::default(),
        }
    }

    /// The recipe of a configuration, for a run of this length.
    pub fn of(train: &TrainConfig, plan: &RunPlan) -> Self {
        Self {
            optimizer: optimizer(train),
            schedule: schedule(train, plan.steps),
            grad_accum: train.grad_accum,
            max_grad_norm: train.max_grad_norm,
            seed: train.seed,
            precision: train.precision,
            ..Self::new(train.lr)
        }
    }

    /// Sets the optimizer.
    pub fn with_optimizer(self, optimizer: impl OptimizerSpec + 'static) -> Self {
        let optimizer = Arc::new(optimizer);
        Self { optimizer, ..self }
    }

    /// Sets the learning rates.
    pub fn with_schedule(self, schedule: impl Schedule + 'static) -> Self {
        let schedule = Arc::new(schedule);
        Self { schedule, ..self }
    }

    /// Sets the number of batches per step.
    pub fn with_grad_accum(self, grad_accum: usize) -> Self {
        Self { grad_accum, ..self }
    }

    /// Sets the largest gradient norm.
    pub fn with_max_grad_norm(self, max_grad_norm: f64) -> Self {
        let max_grad_norm = Some(max_grad_norm);
        Self { max_grad_norm, ..self }
    }

    /// Sets the seed of the dropout masks.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets the precision.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Sets how much of a batch to compute at once.
    pub fn with_chunking(self, chunking: Chunking) -> Self {
        Self { chunking, ..self }
    }
}

fn optimizer(train: &TrainConfig) -> Arc<dyn OptimizerSpec> {
    match train.optimizer {
        OptimizerKind::Adam => Arc::new(Adam::default()),
        OptimizerKind::AdamW => Arc::new(AdamW {
            adam: Adam::default(),
            weight_decay: train.weight_decay,
            decayed: train.decay.clone(),
        }),
        OptimizerKind::Sgd => Arc::new(Sgd {
            momentum: train.momentum.unwrap_or(0.0),
        }),
    }
}

fn schedule(train: &TrainConfig, steps: u64) -> Arc<dyn Schedule> {
    let (lr, warmup) = (train.lr, share_of(steps, train.warmup_steps_perc));
    match train.schedule {
        ScheduleKind::Cosine => Arc::new(Cosine { lr, warmup, steps }),
        ScheduleKind::WarmupStableDecay => Arc::new(WarmupStableDecay {
            lr,
            warmup,
            cooldown: share_of(steps, train.cooldown_steps()),
            steps,
        }),
        ScheduleKind::Constant => Arc::new(Constant { lr, warmup }),
    }
}
