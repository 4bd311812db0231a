//! Training: plan, learning rates, steps, and whole runs with validation.
//!
//! A [`Trainer`] runs a configuration. A custom loop needs only a [`Learner`] and a [`Recipe`]:
//!
//! ```
//! use std::sync::Arc;
//!
//! use mblm::candle::Device;
//! use mblm::config::Preset;
//! use mblm::blocks::BlockRegistry;
//! use mblm::model::{Model, ModelBatch, Seeded};
//! use mblm::train::{Learner, Recipe};
//!
//! # fn main() -> mblm::Result<()> {
//! let architecture = Preset::Tiny.experiment("text".as_ref(), "runs".as_ref()).params.architecture;
//! let model = Model::new(&architecture, &BlockRegistry::default(), &Seeded(1), &Device::Cpu)?;
//! let mut learner = Learner::new(Arc::new(model), Recipe::new(2e-3).with_max_grad_norm(1.0))?;
//! let text = b"To be, or not to be, that is the question";
//! let batch = ModelBatch::new(text.map(u32::from).to_vec(), 1, text.len());
//! let before = learner.step(&batch)?.loss.mean;
//! for _ in 0..20 {
//!     learner.step(&batch)?;
//! }
//! let after = learner.model().evaluate(&batch)?.loss.mean;
//! assert!(after < before / 2.0, "{before} and {after} nats per byte");
//! # Ok(())
//! # }
//! ```

mod best;
mod budget;
mod data;
mod fingerprint;
mod forecast;
mod learner;
mod memory;
mod observer;
mod optimizer;
pub mod outputs;
mod parallel;
mod plan;
mod points;
mod recipe;
mod run_config;
mod run_state;
mod schedule;
mod sizes;
mod state;
mod trainable;
mod trainer;
mod training_run;
mod validation;

pub use budget::{chunking_for, estimate_memory};
pub use data::{TrainingData, dataset_args, open_split};
pub use fingerprint::{Fingerprint, SplitFingerprint};
pub use forecast::{longest_context, memory_limit, seconds_per_batch};
pub use learner::{LearnedBatch, Learner, LearnerCounts, Workers};
pub use memory::{MemoryEstimate, Workload, explain_memory};
pub use observer::{BatchReport, Evaluation, EvaluationKind, Event, FileLengths, Observer, Observers, OnChunk};
pub use optimizer::{Adam, AdamW, GradientNorm, LoadTensor, Optimizer, OptimizerSpec, Sgd};
pub use parallel::workers_of;
pub use plan::RunPlan;
pub use points::spread;
pub use recipe::Recipe;
pub use run_config::RunConfig;
pub use run_state::{BestModel, RunState};
pub use schedule::{Constant, Cosine, Schedule, WarmupStableDecay};
pub use state::{SavedState, States};
pub use trainable::{BatchEvaluation, Metric, TimedLoss, Trainable};
pub use trainer::Trainer;
pub use training_run::Outcome;
pub use validation::model_batch;
