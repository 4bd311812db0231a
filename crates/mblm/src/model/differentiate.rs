//! The loss of a decoder and its gradients: a whole training pass.

use std::time::Duration;

use super::backward::Training;
use super::decoder::Mblm;
use super::gradients::Gradients;
use super::ids::{Ids, Targets};
use super::objective::{CrossEntropy, Objective};
use super::pass::{Loss, TrainingPass, Watch};
use super::streaming::Chunks;
use super::sums::Sums;
use crate::Result;

impl Mblm {
    /// Returns the loss of ids (B, L) with weights `mask`, one for each id; adds its gradients,
    /// times `pass.scale`, to `gradients`.
    ///
    /// # Errors
    /// Ids outside the vocabulary, more ids than a fixed position table of the first stage allows,
    /// a mask of another length.
    pub fn loss_and_gradients<'a>(
        &self,
        ids: impl Into<Ids<'a>>,
        mask: Option<&[f32]>,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<Loss> {
        self.objective_and_gradients(ids, mask, &CrossEntropy, pass, gradients)
    }

    /// Returns the mean of another loss over the predictions that count; otherwise as
    /// [`loss_and_gradients`](Self::loss_and_gradients).
    ///
    /// # Errors
    /// Those of [`loss_and_gradients`](Self::loss_and_gradients) and of the objective.
    pub fn objective_and_gradients<'a>(
        &self,
        ids: impl Into<Ids<'a>>,
        mask: Option<&[f32]>,
        objective: &dyn Objective,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<Loss> {
        let watch = Watch::default();
        let (loss, _) = self.timed_objective_and_gradients(ids.into(), mask, objective, pass, gradients, watch)?;
        Ok(loss)
    }

    /// The same, with the time spent in backward passes; `watch` applies to passes in chunks.
    pub(super) fn timed_objective_and_gradients(
        &self,
        ids: Ids<'_>,
        mask: Option<&[f32]>,
        objective: &dyn Objective,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<(Loss, Duration)> {
        let ids = self.checked(ids)?;
        let targets = Targets::new(&self.config, &ids, mask)?;
        if targets.count == 0 {
            return Ok((Loss::of_sum(0.0, 0), Duration::ZERO));
        }
        let (training, saved) = Training::new(self, ids, targets, objective, pass)?;
        let mut sums = Sums::new(self.stages.len(), gradients);
        let (walk, batch) = (&training.walk, training.ids.batch);
        match training.chunk(walk.levels[0].positions) {
            Some(chunk) => {
                let training = &training;
                let chunks = Chunks { training, chunk, watch };
                (0..batch).try_for_each(|sample| chunks.sample(sample, &mut sums))?;
            }
            None => walk.all_samples(&training, batch, &mut sums)?,
        }
        training.predict_firsts(&mut sums)?;
        training.finish(saved, &mut sums)?;
        let loss = Loss::of_sum(sums.loss()?, training.targets.count);
        Ok((loss, sums.backward))
    }
}
