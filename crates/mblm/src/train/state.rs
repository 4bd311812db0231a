//! Full training states: a killed run resumes from one as if never interrupted.
//!
//! A state is a folder `states/batch_N` in the run's folder, N being the batches done. It is also a
//! model folder, with usable weights.
//!
//! | file | holds |
//! |---|---|
//! | `config.json`, `model.safetensors` | the model |
//! | `optimizer.safetensors` | the optimizer's tensors (Adam: its moments) and any accumulated gradients |
//! | `state.json` | [`RunState`]: counters, data position, best models, lengths of the log files |
//! | `SHA256SUMS` | checksums of these, verified before a state is used |
//!
//! All randomness of a run is a function of its seed and these counters, so no generator is saved.
//! A state appears complete or not at all ([`atomic::write_folder`]); the newest few are kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::learner::Learner;
use super::recipe::Recipe;
use super::run_state::{BestModel, FORMAT, RunState};
use super::trainable::Trainable;
use crate::checkpoint::{self, MODELS, STATE_FILE, STATES, Weights, atomic};
use crate::{Error, Result};

const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// A verified state on disk.
#[derive(Clone, Debug)]
pub struct SavedState {
    /// The folder.
    pub folder: PathBuf,
    /// The content of `state.json`.
    pub state: RunState,
    /// Newer states that are damaged, with the reasons.
    pub damaged: Vec<String>,
}

/// The states of a run.
#[derive(Clone, Debug)]
pub struct States {
    folder: PathBuf,
    keep: usize,
}

impl SavedState {
    /// Opens and verifies a state's folder.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of another version.
    pub fn open(folder: &Path) -> Result<Self> {
        if !checkpoint::verify_sums(folder)? {
            return Err(Error::file(
                folder,
                format!("not a training state: {} is missing", checkpoint::SUMS_FILE),
            ));
        }
        let path = folder.join(STATE_FILE);
        let state = read_state(&path)?;
        if state.format != FORMAT {
            let found = state.format;
            let message =
                format!("expected format {FORMAT}, found format {found}; use the version of mblm that wrote it");
            return Err(Error::file(&path, message));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            state,
            damaged: Vec::new(),
        })
    }

    /// The best models listed by the state in `folder`, without verifying anything else.
    pub(super) fn best_models(folder: &Path) -> Result<Vec<BestModel>> {
        Ok(read_state(&folder.join(STATE_FILE))?.best)
    }

    /// Loads the state's weights into `model`, and restores the learner.
    ///
    /// # Errors
    /// Tensors that do not fit the model.
    pub(super) fn restore(&self, model: Arc<dyn Trainable>, recipe: Recipe) -> Result<Learner> {
        let weights = Weights::open(&self.folder.join(checkpoint::WEIGHTS_FILE))?;
        weights.load_into(model.parameters())?;
        let optimizer = Weights::open_as_stored(&self.folder.join(OPTIMIZER_FILE))?;
        Learner::resume(model, recipe, self.state.counts, &|name, like| {
            optimizer.load(name, like.dims(), like.dtype(), like.device())
        })
    }
}

impl States {
    /// The states of the run in `run`; the newest `keep` are kept.
    pub fn new(run: &Path, keep: usize) -> Self {
        Self {
            folder: run.join(STATES),
            keep: keep.max(1),
        }
    }

    /// The folders of states with the batches done, oldest first, not verified.
    pub fn folders(&self) -> Result<Vec<(u64, PathBuf)>> {
        checkpoint::batch_folders(&self.folder)
    }

    /// Removes partial files that a killed run left in its folder `run`.
    ///
    /// # Errors
    /// Files that cannot be removed.
    pub fn recover(run: &Path) -> Result<()> {
        for folder in [run.to_path_buf(), run.join(STATES), run.join(MODELS)] {
            if folder.is_dir() {
                atomic::clean(&folder)?;
            }
        }
        Ok(())
    }

    /// Returns the newest undamaged state; `None` if there are no states.
    ///
    /// # Errors
    /// The folder cannot be read, or all states in it are damaged.
    pub fn newest(&self) -> Result<Option<SavedState>> {
        let mut damaged = Vec::new();
        for (_, folder) in self.folders()?.into_iter().rev() {
            match SavedState::open(&folder) {
                Ok(saved) => return Ok(Some(SavedState { damaged, ..saved })),
                Err(error) => damaged.push(error.to_string()),
            }
        }
        match damaged.first() {
            None => Ok(None),
            Some(newest) => Err(Error::file(
                &self.folder,
                format!(
                    "none of its {} training states can be used; the error of the newest: {newest}; remove the folder \
                     to start again",
                    damaged.len()
                ),
            )),
        }
    }

    /// Writes a state, then removes all but the newest few, and newer damaged ones.
    ///
    /// # Errors
    /// The state cannot be written; the others are unchanged then.
    pub(super) fn save(&self, learner: &Learner, state: &mut RunState) -> Result<PathBuf> {
        state.counts = learner.counts();
        atomic::make_folder(&self.folder)?;
        let folder = self.folder.join(checkpoint::batch_folder(state.counts.batches));
        let model = learner.model();
        atomic::write_folder(&folder, |new| {
            model.write(new)?;
            new.write_tensors(OPTIMIZER_FILE, &learner.tensors())?;
            let document = serde_json::to_string_pretty(state).map_err(|error| Error::file(&folder, error))?;
            new.write(STATE_FILE, |out| writeln!(out, "{document}"))
        })?;
        for (batches, other) in self.superfluous(state.counts.batches)? {
            // failing to remove an old state is no reason to end a run
            if let Err(error) = atomic::remove(&other) {
                tracing::warn!("the old training state of batch {batches} cannot be removed: {error}");
            }
        }
        Ok(folder)
    }

    /// The states to remove, beside the good state at `batches` and the ones to keep. Newer ones
    /// belong to a discarded past: they were damaged, so the run resumed from an older state.
    fn superfluous(&self, batches: u64) -> Result<Vec<(u64, PathBuf)>> {
        let mut folders = self.folders()?;
        let newer = folders.split_off(folders.partition_point(|(other, _)| *other <= batches));
        folders.truncate(folders.len().saturating_sub(self.keep));
        folders.extend(newer);
        Ok(folders)
    }
}

fn read_state(path: &Path) -> Result<RunState> {
    let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::file(path, format!("not the state of a training run: {error}")))
}
