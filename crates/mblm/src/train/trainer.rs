//! A run of a model, from its beginning or from a saved state on: what [`TrainingRun`] needs, made of a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::best::BestModels;
use super::data::TrainingData;
use super::fingerprint::Fingerprint;
use super::learner::Learner;
use super::observer::Observer;
use super::plan::RunPlan;
use super::recipe::Recipe;
use super::run_config::RunConfig;
use super::run_state::RunState;
use super::state::{SavedState, States};
use super::trainable::Trainable;
use super::training_run::{Outcome, SavedAt, TrainingRun};
use crate::Result;
use crate::model::Chunking;

/// What happens where a run goes on with other data than it began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherData {
    Refuse,
    Accept,
}

/// A run of a model on a data set.
pub struct Trainer {
    config: RunConfig,
    model: Arc<dyn Trainable>,
    data: TrainingData,
    /// The run's folder.
    folder: PathBuf,
    recipe: Recipe,
    other_data: OtherData,
}

impl Trainer {
    /// A run that writes into `folder`, which exists.
    pub fn new(config: impl Into<RunConfig>, model: Arc<dyn Trainable>, data: TrainingData, folder: &Path) -> Self {
        let config = config.into();
        Self {
            recipe: Recipe::of(&config.train, &config.plan()),
            config,
            model,
            data,
            folder: folder.to_path_buf(),
            other_data: OtherData::Refuse,
        }
    }

    /// The same run, computing so much of a batch at once.
    pub fn with_chunking(self, chunking: Chunking) -> Self {
        let recipe = self.recipe.clone().with_chunking(chunking);
        self.with_recipe(recipe)
    }

    /// The same run, learning from batches in another way than its configuration says: with an optimizer or a schedule of one's own.
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        Self { recipe, ..self }
    }

    /// The same run, going on from a saved state with data that are not those of before, if they are not.
    pub fn accepting_other_data(self) -> Self {
        Self {
            other_data: OtherData::Accept,
            ..self
        }
    }

    /// The length of the run.
    pub fn plan(&self) -> RunPlan {
        self.config.plan()
    }

    /// How the run learns from a batch.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
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
        let data = Fingerprint::of(&self.data, self.config.train.seed)?;
        let (learner, mut state) = match from {
            Some(saved) => (
                saved.restore(self.model.clone(), self.recipe.clone())?,
                saved.state.clone(),
            ),
            None => (self.learner()?, RunState::new(self.config.start)),
        };
        match (&state.data, self.other_data) {
            (Some(before), OtherData::Refuse) => before.check(&data)?,
            (Some(before), OtherData::Accept) if before.check(&data).is_err() => {
                state = state.with_other_data(data.clone())
            }
            _ => {}
        }
        state.data = Some(data);
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
        Learner::new(self.model.clone(), self.recipe.clone())
    }
}
