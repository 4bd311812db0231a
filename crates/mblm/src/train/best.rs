//! The best models of a run, by validation loss.
//!
//! Each is a model folder `models/batch_N` in the run's folder, N being the batches trained on.
//! `models/index.json` lists them, best first, so a run's folder can stand for its best model. A
//! model that leaves the list is removed only if no kept training state lists it, so a resumed run
//! finds its models.

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
    /// The best models of the run in `run`; `keep` of them are kept.
    pub(super) fn new(run: &Path, keep: usize) -> Self {
        Self {
            folder: run.join(MODELS),
            keep: keep.max(1),
        }
    }

    /// Whether a model with this loss is among the best.
    pub(super) fn takes(&self, best: &[BestModel], loss: Loss) -> bool {
        best.len() < self.keep || best.last().is_some_and(|worst| worst.is_worse_than(loss))
    }

    /// Writes the model's folder and adds it to the list, which stays at most `keep` long.
    ///
    /// # Errors
    /// The folder cannot be written; the list is unchanged then.
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

    /// Updates `index.json` and removes models that neither the list nor one of `states` needs.
    ///
    /// A complete run needs no models of its older states: resumed from one, it finds the same
    /// models.
    pub(super) fn tidy(&self, best: &[BestModel], states: Option<&States>) -> Result<()> {
        if !self.folder.is_dir() {
            return Ok(());
        }
        let document = serde_json::to_string_pretty(best).map_err(|error| Error::file(&self.folder, error))?;
        atomic::write(&self.folder.join(INDEX_FILE), |out| writeln!(out, "{document}"))?;
        let mut needed: BTreeSet<String> = best.iter().map(|model| model.folder.clone()).collect();
        for (_, folder) in states.map_or(Ok(Vec::new()), States::folders)? {
            // a state that cannot be read will not be used
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

    /// The folder of a listed model.
    pub(super) fn path(&self, model: &BestModel) -> PathBuf {
        self.folder.join(&model.folder)
    }
}
