//! Training: how long, at which rate, one step after another, and a whole run with validation.

mod best;
mod budget;
mod data;
mod learner;
mod memory;
mod observer;
mod optimizer;
pub mod outputs;
mod points;
mod run_config;
mod run_state;
mod schedule;
mod state;
mod trainable;
mod trainer;
mod training_run;
mod validation;

pub use budget::chunking_for;
pub use data::{TrainingData, dataset_args, open_split};
pub use learner::{Counts, LearnedBatch, Learner, Recipe};
pub use memory::{MemoryEstimate, Workload, estimate_memory, explain_memory};
pub use observer::{BatchReport, Evaluation, EvaluationKind, Event, FileLengths, Observer, Observers, OnChunk};
pub(crate) use optimizer::configured;
pub use optimizer::{GradientNorm, Optimizer, PUBLISHED_ADAM};
pub use points::spread;
pub use run_config::RunConfig;
pub use run_state::{BestModel, RunState};
pub use schedule::{RunPlan, Schedule};
pub use state::{SavedState, States};
pub use trainable::{BatchEvaluation, Metric, TimedLoss, Trainable};
pub use trainer::Trainer;
pub use training_run::Outcome;
pub use validation::model_batch;
pub(crate) use validation::{EvaluationBatches, evaluation_batches, sample_order};
