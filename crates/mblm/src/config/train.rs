//! The map `train` of a configuration, and its checks.

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decayed::DecayedParameters;
use super::precision::Precision;
use super::tree::Problem;

/// What counts as one element of `target_elements`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ElementCount {
    /// A sample.
    Batch,
    /// A byte.
    Sequence,
}

/// The rule that turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Adam, betas 0.9 and 0.95, without weight decay.
    #[default]
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
    /// Stochastic gradient descent.
    Sgd,
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ScheduleKind {
    /// A cosine to zero.
    #[default]
    Cosine,
    /// Level, then linear to zero.
    #[serde(rename = "wsd")]
    WarmupStableDecay,
    /// Level.
    Constant,
}

/// How the model is trained. Keys are those of the published package; a field that has another name
/// says its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Lower bound of elements trained on, over all workers.
    pub target_elements: u64,
    /// Equal parts of the training data that are trained on side by side, and averaged for each
    /// step. Any number of processes that divides it computes the same run. `None` means as many as
    /// the run began with, 1 for one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// What counts as an element.
    pub target_elements_strategy: ElementCount,
    /// Share of the gradient steps, in [0, 1], in which the learning rate rises.
    #[serde(default = "default_warmup")]
    pub warmup_steps_perc: f64,
    /// Samples per batch and worker.
    pub batch_size: usize,
    /// Whether the training samples are shuffled.
    #[serde(default)]
    pub shuffle_train: bool,
    /// Whether the validation samples are shuffled.
    #[serde(default)]
    pub shuffle_eval: bool,
    /// The largest number of batches of one validation; `None` means all.
    #[serde(default)]
    pub max_eval_steps: Option<usize>,
    /// The highest learning rate (`learning_rate`).
    #[serde(rename = "learning_rate")]
    pub lr: f64,
    /// Largest L2 norm of all gradients together (`gradient_clipping`); `None` means no clipping.
    #[serde(default, rename = "gradient_clipping")]
    pub max_grad_norm: Option<f64>,
    /// Batches per gradient step (`gradient_accumulate_every`).
    #[serde(rename = "gradient_accumulate_every")]
    pub grad_accum: usize,
    /// Probability in [0, 1] that a byte is masked out; encoders need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking_proba: Option<f64>,
    /// Seed of initial weights, shuffling, dropout and masking.
    #[serde(default)]
    pub seed: u64,
    /// The type of matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Decoupled weight decay of `adamw`.
    #[serde(default)]
    pub weight_decay: f64,
    /// The parameters that `weight_decay` is for.
    #[serde(default, skip_serializing_if = "DecayedParameters::is_all")]
    #[schemars(with = "serde_json::Value")]
    pub decay: DecayedParameters,
    /// Momentum of `sgd`, in [0, 1); `None` means 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// The learning rate after the warm-up.
    #[serde(default, skip_serializing_if = "ScheduleKind::is_cosine")]
    pub schedule: ScheduleKind,
    /// Share of the gradient steps, in [0, 1], in which the learning rate of `wsd` falls; `None`
    /// means 0.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_steps_perc: Option<f64>,
    /// Validations in a row without a lower loss after which the run ends; `None` trains to the
    /// end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<usize>,
    /// Batches between full training states, from which a killed run goes on; `None` means at least
    /// every ten minutes. A state is saved after every validation in any case.
    #[serde(default)]
    pub save_state_every: Option<usize>,
    /// The most memory that a training step may take, such as `40GiB`: chunks of the first stage
    /// and groups of the others are chosen so that it fits. `None` means what a GPU has free; on
    /// the CPU that the first stage of a sample takes at most 512 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub memory: Option<ByteSize>,
    /// Training states kept, the newest.
    #[serde(default = "two")]
    pub keep_states: usize,
}

/// The default share of the steps in which the learning rate of `wsd` falls.
const COOLDOWN_STEPS: f64 = 0.2;

fn two() -> usize {
    2
}

fn default_warmup() -> f64 {
    0.1
}

impl ScheduleKind {
    fn is_cosine(&self) -> bool {
        *self == Self::Cosine
    }
}

impl OptimizerKind {
    /// Returns the name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adam => "adam",
            Self::AdamW => "adamw",
            Self::Sgd => "sgd",
        }
    }
}

impl Default for TrainConfig {
    /// A million bytes in batches of 8 samples at a learning rate of 1e-3; every other key has its
    /// default.
    fn default() -> Self {
        Self {
            target_elements: 1_000_000,
            workers: None,
            target_elements_strategy: ElementCount::Sequence,
            warmup_steps_perc: default_warmup(),
            batch_size: 8,
            shuffle_train: false,
            shuffle_eval: false,
            max_eval_steps: None,
            lr: 1e-3,
            max_grad_norm: None,
            grad_accum: 1,
            masking_proba: None,
            seed: 0,
            precision: Precision::default(),
            optimizer: OptimizerKind::default(),
            weight_decay: 0.0,
            decay: DecayedParameters::default(),
            momentum: None,
            schedule: ScheduleKind::default(),
            cooldown_steps_perc: None,
            early_stopping: None,
            save_state_every: None,
            memory: None,
            keep_states: two(),
        }
    }
}

impl TrainConfig {
    /// Returns the share of the gradient steps in which the learning rate of `wsd` falls.
    pub fn cooldown_steps(&self) -> f64 {
        self.cooldown_steps_perc.unwrap_or(COOLDOWN_STEPS)
    }

    /// The number of workers.
    pub fn worker_count(&self) -> usize {
        self.workers.unwrap_or(1)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Names the first value that cannot be used.
    pub fn check(&self) -> Result<(), Problem> {
        self.check_counts()?;
        finite("learning_rate", self.lr, "a finite number of at least 0", |lr| {
            lr >= 0.0
        })?;
        if let Some(norm) = self.max_grad_norm {
            let expected = "a finite norm above 0, or null for no clipping";
            finite("gradient_clipping", norm, expected, |norm| norm > 0.0)?;
        }
        self.check_optimizer()?;
        self.check_schedule()?;
        self.masking_proba.map_or(Ok(()), |probability| {
            finite("masking_proba", probability, "a probability in [0, 1]", is_share)
        })
    }

    fn check_counts(&self) -> Result<(), Problem> {
        let positive = |key: &str, value: usize| match value {
            0 => Err(Problem::new(key, "expected at least 1, found 0")),
            _ => Ok(()),
        };
        positive("batch_size", self.batch_size)?;
        positive("workers", self.worker_count())?;
        positive("gradient_accumulate_every", self.grad_accum)?;
        if self.max_eval_steps == Some(0) {
            return Err(Problem::new(
                "max_eval_steps",
                "expected at least 1, or null for all batches, found 0",
            ));
        }
        positive("keep_states", self.keep_states)?;
        if self.early_stopping == Some(0) {
            return Err(Problem::new(
                "early_stopping",
                "expected at least 1 validation, or null to train to the end, found 0",
            ));
        }
        if self.save_state_every == Some(0) {
            return Err(Problem::new(
                "save_state_every",
                "expected at least 1, or null for the default, found 0",
            ));
        }
        Ok(())
    }

    /// Returns how many numbers the optimizer keeps for each parameter: two for Adam, one for
    /// gradient descent with momentum, else none.
    pub fn moments(&self) -> usize {
        match (self.optimizer, self.momentum) {
            (OptimizerKind::Adam | OptimizerKind::AdamW, _) => 2,
            (OptimizerKind::Sgd, Some(momentum)) if momentum > 0.0 => 1,
            (OptimizerKind::Sgd, _) => 0,
        }
    }

    fn check_optimizer(&self) -> Result<(), Problem> {
        let optimizer = self.optimizer.name();
        finite(
            "weight_decay",
            self.weight_decay,
            "a finite number of at least 0",
            |decay| decay >= 0.0,
        )?;
        if self.weight_decay > 0.0 && self.optimizer != OptimizerKind::AdamW {
            let found = self.weight_decay;
            let message = format!("expected 0 for {optimizer}, found {found}; set optimizer: adamw");
            return Err(Problem::new("weight_decay", message));
        }
        self.decay.check().map_err(|problem| problem.within("decay"))?;
        if !self.decay.is_all() && self.optimizer != OptimizerKind::AdamW {
            let message = format!("{optimizer} has no weight decay; set optimizer: adamw, or leave the key out");
            return Err(Problem::new("decay", message));
        }
        let Some(momentum) = self.momentum else { return Ok(()) };
        finite("momentum", momentum, "a number in [0, 1)", |momentum| {
            (0.0..1.0).contains(&momentum)
        })?;
        match self.optimizer {
            OptimizerKind::Sgd => Ok(()),
            _ => {
                let message = format!("{optimizer} has no such key; set optimizer: sgd, or leave it out");
                Err(Problem::new("momentum", message))
            }
        }
    }

    fn check_schedule(&self) -> Result<(), Problem> {
        let expected = "a share in [0, 1], not a percentage";
        finite("warmup_steps_perc", self.warmup_steps_perc, expected, is_share)?;
        if let Some(share) = self.cooldown_steps_perc {
            finite("cooldown_steps_perc", share, expected, is_share)?;
        }
        let (warmup, cooldown) = (self.warmup_steps_perc, self.cooldown_steps());
        match (self.schedule, self.cooldown_steps_perc) {
            (ScheduleKind::WarmupStableDecay, _) if warmup + cooldown > 1.0 => {
                let message = format!(
                    "expected at most 1 together with warmup_steps_perc: {warmup}, found {cooldown}; lower one of them"
                );
                Err(Problem::new("cooldown_steps_perc", message))
            }
            (ScheduleKind::WarmupStableDecay, _) | (_, None) => Ok(()),
            (_, Some(_)) => Err(Problem::new(
                "cooldown_steps_perc",
                "only the schedule wsd cools down; set schedule: wsd, or leave the key out",
            )),
        }
    }
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn finite(key: &str, value: f64, expected: &str, holds: impl Fn(f64) -> bool) -> Result<(), Problem> {
    match value.is_finite() && holds(value) {
        true => Ok(()),
        false => Err(Problem::new(key, format!("expected {expected}, found {value}"))),
    }
}
