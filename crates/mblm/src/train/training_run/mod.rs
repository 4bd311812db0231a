//! A training run in progress: batches, evenly spread validation, best models and full states.
//!
//! After each batch, in this order: the batch is reported, the model validated if due, kept if
//! among the best, and the state saved if due. A saved state includes all of these, so
//! interruptions do not change later results. A run that is asked to stop saves its state after the
//! current batch without validating; a validation that is due runs first when the run resumes.

mod learn;
mod save;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::best::BestModels;
use super::data::TrainingData;
use super::learner::{LearnedBatch, Learner, Passed, Workers};
use super::observer::{BatchReport, Evaluation, EvaluationKind, Event, Observer};
use super::optimizer::GradientNorm;
use super::parallel::{Peers, Told, WorkerLoss, worker_seed};
use super::plan::RunPlan;
use super::points;
use super::run_config::RunConfig;
use super::run_state::RunState;
use super::state::States;
use super::validation::{Evaluator, model_batch, sample_order};
use crate::checkpoint::{WEIGHTS_FILE, Weights};
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Position};
use crate::model::{Loss, Watch};
use crate::{Error, Result};

/// The longest time between saved states, unless configured.
const MAX_UNSAVED: Duration = Duration::from_secs(600);

/// The result of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// Batches trained on, including those before a resumption.
    pub batches: u64,
    /// The next batch if training continues.
    pub next: Position,
    /// Loss of the last training batch.
    pub last_loss: Option<Loss>,
    /// The lowest validation loss.
    pub best: Option<Loss>,
    /// The test loss of the best model.
    pub test: Option<Loss>,
    /// The folder of the best model, or of the last one without validation; `None` if none exists.
    pub model_folder: Option<PathBuf>,
    /// The folder of the last state.
    pub state_folder: PathBuf,
    /// Whether the run was asked to stop before its end.
    pub stopped: bool,
    /// Whether `train.early_stopping` ended the run before its plan.
    pub ended_early: bool,
}

/// A state on disk.
#[derive(Clone, Debug)]
pub(super) struct SavedAt {
    /// Its folder.
    pub(super) folder: PathBuf,
    /// The content of `state.json`.
    pub(super) state: RunState,
}

/// A run in progress.
pub(super) struct TrainingRun<'r> {
    pub(super) config: &'r RunConfig,
    pub(super) data: &'r TrainingData,
    pub(super) plan: RunPlan,
    pub(super) learner: Learner,
    pub(super) state: RunState,
    pub(super) states: States,
    pub(super) models: BestModels,
    /// The newest state on disk.
    pub(super) saved: Option<SavedAt>,
    /// The time when it was written, or the run began.
    pub(super) saved_at: Instant,
    pub(super) observer: &'r mut dyn Observer,
    pub(super) stop: &'r AtomicBool,
    /// The ranks that share the run. Rank 0 writes its files.
    pub(super) peers: Peers,
    /// The workers of this rank.
    pub(super) share: Range<usize>,
    /// Whether a rank was asked to stop, as all ranks know.
    pub(super) stop_agreed: bool,
    /// Whether a state is to be saved at the next step, as all ranks know.
    pub(super) save_agreed: bool,
}

impl TrainingRun<'_> {
    /// Runs to the end of the plan, or until asked to stop.
    pub(super) fn finish_plan(mut self) -> Result<Outcome> {
        let (plan, io) = (self.plan, &self.config.io);
        let validate = self.spread(io.validate_amount, "validate_amount")?;
        let log = self.spread(io.log_train_loss_amount, "log_train_loss_amount")?;
        let done = self.state.counts.batches;
        self.observer.event(&Event::Start { plan, done })?;
        self.validate_if_due()?;
        let mut batches = self.batches()?;
        while self.state.counts.batches < plan.batches && !self.stopped() && !self.ended_early() {
            let next = batches.iter_mut().map(|loader| loader.next().transpose());
            let Some(next) = self.told(next.collect::<Result<Option<Vec<Batch>>>>())? else {
                break;
            };
            let cum_batch = self.state.counts.batches;
            let logged = log.binary_search(&cum_batch).is_ok();
            let Some(learned) = self.learn(&next)? else {
                break;
            };
            self.report(&next, &learned, logged)?;
            self.state.validation_due |= self.data.validation.is_some()
                && (validate.binary_search(&cum_batch).is_ok() || cum_batch + 1 == plan.batches);
            let validated = self.validate_if_due()?;
            if !self.stopped() && self.save_is_due(validated) && cum_batch + 1 < plan.batches {
                self.save_or_warn()?;
            }
        }
        drop(batches);
        self.end()
    }

    /// Whether the run stops now. Several ranks stop together, and only between two steps: their
    /// gradients that wait for a step differ.
    fn stopped(&self) -> bool {
        match self.peers.alone() {
            true => self.stop.load(Ordering::Relaxed),
            false => self.stop_agreed && self.learner.counts().pending == 0,
        }
    }

    /// Whether the loss has not fallen for `train.early_stopping` validations.
    fn ended_early(&self) -> bool {
        let patience = self.config.train.early_stopping;
        patience.is_some_and(|patience| self.state.since_best >= patience)
    }

    /// Points spread over the run; warns if there are fewer batches than requested points.
    fn spread(&mut self, amount: usize, key: &str) -> Result<Vec<u64>> {
        let batches = self.plan.batches;
        if amount as u64 > batches && self.state.counts.batches == 0 {
            let message = format!("io.{key}: {amount} is more than the run's batches, so it is done {batches} times");
            self.observer.event(&Event::Warning(&message))?;
        }
        Ok(points::spread(0, batches, amount))
    }

    fn not_finite(&self, what: &'static str, value: f64, place: String) -> Error {
        Error::NotFinite {
            what,
            value,
            place,
            state: self.saved.as_ref().map(|saved| saved.folder.clone()),
        }
    }

    fn elements_seen(&self) -> u64 {
        self.state.counts.batches * self.plan.elements_per_batch
    }

    /// Validates if due and not asked to stop, and keeps the model if it is among the best. Returns
    /// whether it validated.
    fn validate_if_due(&mut self) -> Result<bool> {
        let Some(data) = self.data.validation.as_ref().filter(|_| self.state.validation_due) else {
            return Ok(false);
        };
        let Some(evaluation) = self.evaluate(EvaluationKind::Validation, data)? else {
            return Ok(false);
        };
        let (batches, loss) = (self.state.counts.batches, evaluation.loss);
        if !loss.mean.is_finite() {
            let place = format!("the validation after batch {}", evaluation.cum_batch);
            return Err(self.not_finite("the validation loss", loss.mean, place));
        }
        let best = self.state.best.first().and_then(|best| best.loss);
        let best = best.is_none_or(|best| loss.mean < best.mean);
        self.state.since_best = if best { 0 } else { self.state.since_best + 1 };
        self.observer
            .event(&Event::Evaluated(Evaluation { best, ..evaluation }))?;
        self.state.validation_due = false;
        if self.models.takes(&self.state.best, loss)
            && let Err(error) = self.keep_model(batches, Some(loss))?
        {
            let message = format!("the model could not be saved, the earlier models stay: {error}");
            self.observer.event(&Event::Warning(&message))?;
        }
        Ok(true)
    }

    /// Keeps the model as one of the best: rank 0 writes it, and all ranks list it. The inner error
    /// is the disk's.
    fn keep_model(&mut self, batches: u64, loss: Option<Loss>) -> Result<Result<()>> {
        let mut failure = None;
        let (model, models, best) = (self.learner.model(), &self.models, &self.state.best);
        let (kept, failed) = self.peers.broadcast(|| {
            let mut best = best.clone();
            failure = models.add(&**model, batches, loss, &mut best).err();
            (best, failure.as_ref().map(ToString::to_string))
        })?;
        self.state.best = kept;
        Ok(match (failure, failed) {
            (Some(error), _) => Err(error),
            (None, Some(message)) => Err(Error::input(message)),
            (None, None) => Ok(()),
        })
    }

    /// Evaluates on `data`, without marking a best model; `None` if asked to stop meanwhile.
    fn evaluate(&mut self, kind: EvaluationKind, data: &Arc<dyn Dataset>) -> Result<Option<Evaluation>> {
        let train = &self.config.train;
        let begun = Instant::now();
        let measured =
            Evaluator::new(&**self.learner.model(), train, &self.peers).run(data, self.observer, self.stop)?;
        // all ranks know that one was asked to stop
        self.stop_agreed |= measured.is_none();
        Ok(measured.map(|measured| Evaluation {
            kind,
            epoch: self.state.last.epoch,
            batch: self.state.last.batch,
            cum_batch: self.state.counts.batches.saturating_sub(1),
            elements_seen: self.elements_seen(),
            samples: measured.samples,
            loss: measured.loss,
            metric: measured.metric,
            time: begun.elapsed(),
            best: false,
        }))
    }

    /// Saves the final state, and tests the best model of a complete run.
    fn end(mut self) -> Result<Outcome> {
        let complete = !self.stopped() && !self.state.validation_due;
        let ended_early = self.ended_early() && self.state.counts.batches < self.plan.batches;
        if let (true, Some(patience)) = (complete && ended_early, self.config.train.early_stopping) {
            let message = format!(
                "the validation loss has not fallen for {patience} validations (train.early_stopping): the run ends"
            );
            self.observer.event(&Event::Warning(&message))?;
        }
        if !complete {
            self.observer.event(&Event::Stopping)?;
        }
        if complete && self.state.best.is_empty() {
            self.keep_model(self.state.counts.batches, None)??;
        }
        self.save()?.map_err(|error| {
            let lost = format!("the last training state could not be saved; {}", self.in_use());
            match error {
                Error::File { path, message } => Error::file(path, format!("{message}: {lost}")),
                other => Error::input(format!("{other}: {lost}")),
            }
        })?;
        if complete && self.peers.writes() {
            self.models.tidy(&self.state.best, None)?;
        }
        let test = match (&self.data.test, complete) {
            (Some(test), true) => self.test(test)?,
            _ => None,
        };
        let batches = self.state.counts.batches;
        let stopped = self.stopped();
        self.observer.event(&Event::End { batches, stopped })?;
        self.observer.flush()?;
        let best = self.state.best.first();
        Ok(Outcome {
            batches,
            next: self.state.next,
            last_loss: self.state.last_loss,
            best: best.and_then(|best| best.loss),
            test,
            model_folder: best.map(|best| self.models.path(best)),
            // a state was saved above
            state_folder: self.saved.map(|saved| saved.folder).unwrap_or_default(),
            stopped,
            ended_early,
        })
    }

    /// The test loss of the best model; `None` if asked to stop meanwhile.
    fn test(&mut self, test: &Arc<dyn Dataset>) -> Result<Option<Loss>> {
        let Some(best) = self.state.best.first() else {
            return Ok(None);
        };
        let weights = Weights::open(&self.models.path(best).join(WEIGHTS_FILE))?;
        weights.load_into(self.learner.model().parameters())?;
        let Some(evaluation) = self.evaluate(EvaluationKind::Test, test)? else {
            return Ok(None);
        };
        self.observer.event(&Event::Evaluated(evaluation))?;
        Ok(Some(evaluation.loss))
    }
}
