//! A run of a model, new or resumed: creates a [`TrainingRun`] from a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mblm_group::Group;

use super::best::BestModels;
use super::data::TrainingData;
use super::fingerprint::Fingerprint;
use super::learner::Learner;
use super::observer::Observer;
use super::parallel::{Peers, workers_of};
use super::plan::RunPlan;
use super::recipe::Recipe;
use super::run_config::RunConfig;
use super::run_state::RunState;
use super::state::{SavedState, States};
use super::trainable::Trainable;
use super::training_run::{Outcome, SavedAt, TrainingRun};
use crate::model::Chunking;
use crate::{Error, Result};

/// The policy for resuming with other data.
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
    peers: Peers,
}

impl Trainer {
    /// Creates a run that writes to the existing `folder`.
    pub fn new(config: impl Into<RunConfig>, model: Arc<dyn Trainable>, data: TrainingData, folder: &Path) -> Self {
        let config = config.into();
        Self {
            recipe: Recipe::of(&config.train, &config.plan()),
            config,
            model,
            data,
            folder: folder.to_path_buf(),
            other_data: OtherData::Refuse,
            peers: Peers::default(),
        }
    }

    /// Shares the run with the other ranks of a group, which create the same run: each trains on
    /// the batches of its workers. Rank 0 writes states and models; give the other ranks observers
    /// that write nothing.
    pub fn among(self, group: Arc<dyn Group>) -> Self {
        let peers = Peers::new(group);
        Self { peers, ..self }
    }

    /// Sets how much of a batch to compute at once.
    pub fn with_chunking(self, chunking: Chunking) -> Self {
        let recipe = self.recipe.clone().with_chunking(chunking);
        self.with_recipe(recipe)
    }

    /// Replaces the configured recipe, for example by one with a custom optimizer or schedule.
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        Self { recipe, ..self }
    }

    /// Allows resuming from a saved state with other data.
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

    /// The recipe of the run.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Trains, from the beginning or a saved state, until the plan ends or `stop` is set. A stopped
    /// run finishes the current batch and saves its state.
    ///
    /// On the CPU, interruptions change neither weights nor best models nor observed events.
    ///
    /// # Errors
    /// Data that cannot be read, a loss that is not finite, parameters without gradient, a final
    /// state that cannot be written. Other states and models that cannot be written cause warnings,
    /// and the run continues.
    pub fn run(&self, from: Option<&SavedState>, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let workers = self.config.train.worker_count();
        if self.data.other_workers.len() + 1 != workers {
            let found = self.data.other_workers.len() + 1;
            return Err(Error::config(format!(
                "train.workers is {workers}: expected a part of the training data for each, found {found}"
            )));
        }
        let data = Fingerprint::of(&self.data, self.config.train.seed)?;
        let (learner, mut state) = match from {
            Some(saved) => (self.restored(saved)?, saved.state.clone()),
            None => (
                self.learner()?.among(self.peers.clone()),
                RunState::new(self.config.start).with_workers(workers),
            ),
        };
        state.check_workers(workers)?;
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
            share: workers_of(self.peers.group(), workers)?,
            peers: self.peers.clone(),
            stop_agreed: false,
            save_agreed: false,
        };
        run.finish_plan()
    }

    /// Restores a learner. Gradients that wait for a step are those of rank 0.
    fn restored(&self, saved: &SavedState) -> Result<Learner> {
        let mut learner = saved
            .restore(self.model.clone(), self.recipe.clone())?
            .among(self.peers.clone());
        if !self.peers.writes() {
            learner.clear_gradients()?;
        }
        Ok(learner)
    }

    /// Creates a learner with the run's recipe, before its first step, for a custom loop.
    ///
    /// # Errors
    /// A device without enough memory.
    pub fn learner(&self) -> Result<Learner> {
        Learner::new(self.model.clone(), self.recipe.clone())
    }
}
