//! Training: how long, at which rate, one step after another, and a whole run with validation.

mod learner;
mod memory;
mod observer;
mod optimizer;
pub mod outputs;
mod points;
mod schedule;
mod trainer;

pub use learner::{Learned, Learner, Recipe};
pub use memory::estimate_memory;
pub use observer::{BatchReport, Evaluation, EvaluationKind, Event, FileLengths, Observer, Observers};
pub use optimizer::{GradientNorm, Optimizer, PUBLISHED_ADAM};
pub use points::spread;
pub use schedule::{Plan, Schedule};
pub use trainer::{Outcome, Trainer, TrainingData, model_batch};
