//! A run of a model, from its beginning or from a saved state on: what [`TrainingRun`] needs, made of a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::best::BestModels;
use super::data::TrainingData;
use super::learner::{Learner, Recipe};
use super::observer::Observer;
use super::optimizer::configured;
use super::run_config::RunConfig;
use super::run_state::RunState;
use super::schedule::{RunPlan, Schedule};
use super::state::{SavedState, States};
use super::trainable::Trainable;
use super::training_run::{Outcome, SavedAt, TrainingRun};
use crate::Result;
use crate::model::Chunking;

/// A run of a model on a data set.
pub struct Trainer {
    config: RunConfig,
    model: Arc<dyn Trainable>,
    data: TrainingData,
    /// The run's folder.
    folder: PathBuf,
    chunking: Chunking,
}

impl Trainer {
    /// A run that writes into `folder`, which exists.
    pub fn new(config: impl Into<RunConfig>, model: Arc<dyn Trainable>, data: TrainingData, folder: &Path) -> Self {
        Self {
            config: config.into(),
            model,
            data,
            folder: folder.to_path_buf(),
            chunking: Chunking::default(),
        }
    }

    /// The same run, computing so much of a batch at once.
    pub fn with_chunking(self, chunking: Chunking) -> Self {
        Self { chunking, ..self }
    }

    /// The length of the run.
    pub fn plan(&self) -> RunPlan {
        RunPlan::new(&self.config.train, self.config.sample_len, 1)
    }

    /// How each batch is learned from.
    pub fn recipe(&self) -> Recipe {
        let train = &self.config.train;
        Recipe {
            adam: configured(train),
            schedule: Schedule::new(train.learning_rate, self.plan().steps, train.warmup_steps_perc),
            grad_accum: train.gradient_accumulate_every,
            max_grad_norm: train.gradient_clipping,
            seed: train.seed,
            precision: train.precision,
            chunking: self.chunking,
        }
    }

    /// Trains from the beginning, or from a saved state on, until the end of the plan or until `stop` is set: then the run
    /// ends after the current batch with its state saved.
    ///
    /// On the CPU the weights, the best models and what observers hear do not depend on how often the run was interrupted,
    /// nor where.
    ///
    /// # Errors
    /// Data that cannot be read, a loss that is not finite, parameters without gradient, a last state that cannot be
    /// written. Other states and models that cannot be written are warnings: the run goes on with what it has.
    pub fn run(&self, from: Option<&SavedState>, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let (learner, state) = match from {
            Some(saved) => (saved.restore(self.model.clone(), self.recipe())?, saved.state.clone()),
            None => (self.learner()?, RunState::new(self.config.start)),
        };
        let run = TrainingRun {
            config: &self.config,
            data: &self.data,
            plan: self.plan(),
            learner,
            saved: from.map(|saved| SavedAt {
                folder: saved.folder.clone(),
                state: saved.state.clone(),
            }),
            saved_at: Instant::now(),
            state,
            states: States::new(&self.folder, self.config.train.keep_states),
            models: BestModels::new(&self.folder, self.config.io.num_models_to_save),
            observer,
            stop,
        };
        run.finish_plan()
    }

    /// A learner at its first step that learns as the run does, for a loop of one's own.
    ///
    /// # Errors
    /// A device without memory for it.
    pub fn learner(&self) -> Result<Learner> {
        Learner::new(self.model.clone(), self.recipe())
    }
}
