//! The states of a run: when they are due, and their writing by rank 0.

use super::*;

impl TrainingRun<'_> {
    pub(super) fn save_is_due(&mut self, validated: bool) -> bool {
        let batches = self.state.counts.batches;
        let due = match self.config.train.save_state_every {
            Some(every) => validated || batches.is_multiple_of(every as u64),
            None if self.peers.alone() => validated || self.saved_at.elapsed() >= MAX_UNSAVED,
            None => validated,
        };
        self.save_agreed |= due;
        // several ranks save between two steps: their gradients that wait for a step differ
        let now = self.peers.alone() || self.state.counts.pending == 0;
        now && std::mem::take(&mut self.save_agreed)
    }

    /// Saves the state; on failure warns, keeps the previous state, and the run continues.
    pub(super) fn save_or_warn(&mut self) -> Result<()> {
        let Err(error) = self.save()? else { return Ok(()) };
        let message = format!("the training state could not be saved: {error}; {}", self.in_use());
        self.observer.event(&Event::Warning(&message))
    }

    /// Describes the state from which the run could resume now.
    pub(super) fn in_use(&self) -> String {
        match &self.saved {
            Some(saved) => format!("{} stays in use", saved.folder.display()),
            None => "there is no earlier state".into(),
        }
    }

    /// Saves the state and removes superfluous files: rank 0 writes, and all ranks know the
    /// outcome. The inner error is the disk's.
    pub(super) fn save(&mut self) -> Result<Result<()>> {
        if self.state.counts.pending > 0 {
            // the state has one sum of the gradients that wait, so rank 0 takes it over
            self.learner.gather_pending()?;
        }
        let mut failure = None;
        let written = match self.peers.writes() {
            true => self.write_state().unwrap_or_else(|error| {
                let message = error.to_string();
                failure = Some(error);
                Err(message)
            }),
            false => Ok(None),
        };
        let written: Result<Option<PathBuf>, String> = self.peers.broadcast(|| written)?;
        match (failure, written) {
            (Some(error), _) => return Ok(Err(error)),
            (None, Err(message)) => return Ok(Err(Error::input(message))),
            (None, Ok(None)) => {}
            (None, Ok(Some(folder))) => {
                let state = self.state.clone();
                self.saved = Some(SavedAt { folder, state });
                self.saved_at = Instant::now();
            }
        }
        Ok(Ok(()))
    }

    /// Writes the state, unless it is on disk. Returns its folder.
    pub(super) fn write_state(&mut self) -> Result<Result<Option<PathBuf>, String>> {
        self.state.files = self.observer.flush()?;
        if self.saved.as_ref().is_some_and(|saved| saved.state == self.state) {
            return Ok(Ok(None));
        }
        let folder = self.states.save(&self.learner, &mut self.state)?;
        let batches = self.state.counts.batches;
        if let Err(error) = self.models.tidy(&self.state.best, Some(&self.states)) {
            self.observer.event(&Event::Warning(&error.to_string()))?;
        }
        let event = Event::StateSaved {
            folder: &folder,
            batches,
        };
        self.observer.event(&event)?;
        Ok(Ok(Some(folder)))
    }
}
