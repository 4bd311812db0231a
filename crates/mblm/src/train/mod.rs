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
mod schedule;
mod state;
mod trainer;
mod validation;

pub use best::BestModel;
pub use budget::chunking_for;
pub use data::{TrainingData, dataset_args, open_split};
pub use learner::{Counts, Learned, Learner, Recipe};
pub use memory::{MemoryEstimate, Workload, estimate_memory, explain_memory};
pub use observer::{BatchReport, Evaluation, EvaluationKind, Event, FileLengths, Observer, Observers, OnChunk};
pub(crate) use optimizer::configured;
pub use optimizer::{GradientNorm, Optimizer, PUBLISHED_ADAM};
pub use points::spread;
pub use schedule::{Plan, Schedule};
pub use state::{RunState, SavedState, States};
pub use trainer::{Outcome, Trainer};
pub use validation::model_batch;
pub(crate) use validation::{evaluation_batches, sample_order};
