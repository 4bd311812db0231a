//! The best models of a run, by validation loss.
//!
//! Each is a model folder `models/batch_N` in the run's folder, N the batches that it has learned from. `models/index.json`
//! lists them, the best first: that is how a run's folder stands for its best model. A model that is no longer among the best
//! is removed only when no training state that is kept still lists it, so that a run that goes on from one finds it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::run_state::BestModel;
use super::state::{SavedState, States};
use super::trainable::Trainable;
use crate::checkpoint::{self, INDEX_FILE, MODELS, atomic};
use crate::model::Loss;
use crate::{Error, Result};

/// The folder of a run's best models.
#[derive(Clone, Debug)]
pub(super) struct BestModels {
    folder: PathBuf,
    keep: usize,
}

impl BestModels {
    /// Those of the run in `run`, of which `keep` stay.
    pub(super) fn new(run: &Path, keep: usize) -> Self {
        Self {
            folder: run.join(MODELS),
            keep: keep.max(1),
        }
    }

    /// Whether a model of this loss is among the best.
    pub(super) fn takes(&self, best: &[BestModel], loss: Loss) -> bool {
        best.len() < self.keep || best.last().is_some_and(|worst| worst.is_worse_than(loss))
    }

    /// Writes the model's folder and enters it into the list, which keeps its length.
    ///
    /// # Errors
    /// The folder cannot be written; the list is then as it was.
    pub(super) fn add(
        &self,
        model: &dyn Trainable,
        batches: u64,
        loss: Option<Loss>,
        best: &mut Vec<BestModel>,
    ) -> Result<()> {
        atomic::make_folder(&self.folder)?;
        let name = checkpoint::batch_folder(batches);
        atomic::write_folder(&self.folder.join(&name), |new| model.write(new))?;
        let place = match loss {
            Some(loss) => best.partition_point(|other| !other.is_worse_than(loss)),
            None => best.len(),
        };
        best.insert(
            place,
            BestModel {
                folder: name,
                batches,
                loss,
            },
        );
        best.truncate(self.keep);
        Ok(())
    }

    /// Brings `index.json` up to date and removes models that neither the list nor a state among `states` needs.
    ///
    /// A run that is complete needs no model of its older states: if it went on from one, it would find the same best models.
    pub(super) fn tidy(&self, best: &[BestModel], states: Option<&States>) -> Result<()> {
        if !self.folder.is_dir() {
            return Ok(());
        }
        let document = serde_json::to_string_pretty(best).map_err(|error| Error::file(&self.folder, error))?;
        atomic::write(&self.folder.join(INDEX_FILE), |out| writeln!(out, "{document}"))?;
        let mut needed: BTreeSet<String> = best.iter().map(|model| model.folder.clone()).collect();
        for (_, folder) in states.map_or(Ok(Vec::new()), States::folders)? {
            // a state that cannot be read is not going to be used
            if let Ok(listed) = SavedState::best_models(&folder) {
                needed.extend(listed.into_iter().map(|model| model.folder));
            }
        }
        for (_, folder) in checkpoint::batch_folders(&self.folder)? {
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
            if name.is_some_and(|name| !needed.contains(&name)) {
                atomic::remove(&folder)?;
            }
        }
        Ok(())
    }

    /// The folder of a model of the list.
    pub(super) fn path(&self, model: &BestModel) -> PathBuf {
        self.folder.join(&model.folder)
    }
}
