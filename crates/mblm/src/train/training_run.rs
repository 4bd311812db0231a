//! A training run in progress: batches, evenly spread validation, best models and full states.
//!
//! After each batch, in this order: the batch is reported, the model validated if due, kept if
//! among the best, and the state saved if due. A saved state includes all of these, so
//! interruptions do not change later results. A run that is asked to stop saves its state after the
//! current batch without validating; a validation that is due runs first when the run resumes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::best::BestModels;
use super::data::TrainingData;
use super::learner::{LearnedBatch, Learner, Workers};
use super::observer::{BatchReport, Evaluation, EvaluationKind, Event, Observer};
use super::plan::RunPlan;
use super::points;
use super::run_config::RunConfig;
use super::run_state::RunState;
use super::state::States;
use super::validation::{Evaluator, model_batch, sample_order};
use crate::checkpoint::{WEIGHTS_FILE, Weights};
use crate::data::hash::key;
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
            let next: Option<Vec<Batch>> = batches
                .iter_mut()
                .map(|loader| loader.next().transpose())
                .collect::<Result<_>>()?;
            let Some(next) = next else {
                break;
            };
            let cum_batch = self.state.counts.batches;
            let logged = log.binary_search(&cum_batch).is_ok();
            let Some(learned) = self.learn(&next)? else {
                break;
            };
            self.report(&next, &learned, logged)?;
            self.state.validation_due = self.data.validation.is_some()
                && (validate.binary_search(&cum_batch).is_ok() || cum_batch + 1 == plan.batches);
            let validated = self.validate_if_due()?;
            if !self.stopped() && self.save_is_due(validated) && cum_batch + 1 < plan.batches {
                self.save_or_warn()?;
            }
        }
        drop(batches);
        self.end()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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

    /// The batches of each worker.
    fn batches(&self) -> Result<Vec<Loader>> {
        let train = &self.config.train;
        let loader = |worker| {
            let seed = match worker {
                0 => train.seed,
                worker => key(&[train.seed, worker as u64]),
            };
            let order = sample_order(train.shuffle_train, seed);
            let options = LoaderOptions::training(train.batch_size, order, self.state.next);
            Loader::new(self.data.part(worker), options)
        };
        (0..train.worker_count()).map(loader).collect()
    }

    /// Trains on a batch of each worker; `None` if the run was asked to stop meanwhile.
    fn learn(&mut self, batches: &[Batch]) -> Result<Option<LearnedBatch>> {
        let cum_batch = self.state.counts.batches;
        let model_batches: Vec<_> = batches.iter().map(model_batch).collect();
        let workers = Workers {
            first: 0,
            all: batches.len(),
        };
        let index = batches[0].position.batch as u64;
        let on_chunk = self.observer.on_chunk();
        let percent = AtomicUsize::new(0);
        let progress = |done: usize, of: usize| {
            percent.store(100 * done / of.max(1), Ordering::Relaxed);
            if let Some(on_chunk) = &on_chunk {
                on_chunk(done, of);
            }
        };
        let watch = Watch {
            stop: Some(self.stop),
            progress: Some(&progress),
        };
        let found = (self.learner).learn_workers(&model_batches, workers, index, watch);
        let percent = percent.into_inner();
        let learned = match found {
            Ok(learned) => learned,
            Err(Error::Stopped { .. }) => {
                let message = format!(
                    "stopped {percent} % into batch {cum_batch}: a resumed run starts this batch \
                     again"
                );
                self.observer.event(&Event::Warning(&message))?;
                return Ok(None);
            }
            Err(error) => {
                let message = format!("failed {percent} % into batch {cum_batch}; {}", self.in_use());
                self.observer.event(&Event::Warning(&message))?;
                return Err(error);
            }
        };
        let norm = learned.norm.map_or(0.0, |norm| norm.before);
        let losses = learned.workers.iter().map(|loss| ("the loss", loss.mean)).enumerate();
        let norm = (0, ("the norm of the gradient", norm));
        for (worker, (what, value)) in losses.chain([norm]) {
            if !value.is_finite() {
                let batch = &batches[worker];
                let Position { epoch, batch: index } = batch.position;
                let samples = &batch.samples;
                let of = match batches.len() {
                    1 => String::new(),
                    _ => format!(", worker {worker}"),
                };
                let place = format!("batch {cum_batch} (epoch {epoch}, batch {index} of it, samples {samples:?}{of})");
                return Err(self.not_finite(what, value, place));
            }
        }
        Ok(Some(learned))
    }

    /// Counts a batch of each worker, and reports them.
    fn report(&mut self, batches: &[Batch], learned: &LearnedBatch, logged: bool) -> Result<()> {
        let cum_batch = self.state.counts.batches;
        self.state.counts = self.learner.counts();
        self.state.last_loss = Some(learned.loss);
        self.state.last = batches[0].position;
        self.state.next = batches[0].next;
        let elements_seen = self.elements_seen();
        let of_each = batches.iter().zip(&learned.workers).enumerate();
        let report = |(worker, (batch, loss)): (usize, (&Batch, &Loss))| BatchReport {
            worker,
            workers: batches.len(),
            mean_loss: learned.loss,
            epoch: batch.position.epoch,
            batch: batch.position.batch,
            cum_batch,
            elements_seen,
            samples: batch.rows,
            bytes: batch.ids.len(),
            loss: *loss,
            lr: learned.lr,
            norm: learned.norm,
            logged,
            forward: learned.forward,
            backward: learned.backward,
        };
        for report in of_each.map(report) {
            self.observer.event(&Event::Batch(report))?;
        }
        Ok(())
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
        if self.models.takes(&self.state.best, loss) {
            let (model, best) = (self.learner.model(), &mut self.state.best);
            if let Err(error) = self.models.add(&**model, batches, Some(loss), best) {
                let message = format!("the model could not be saved, the earlier models stay: {error}");
                self.observer.event(&Event::Warning(&message))?;
            }
        }
        Ok(true)
    }

    /// Evaluates on `data`, without marking a best model; `None` if asked to stop meanwhile.
    fn evaluate(&mut self, kind: EvaluationKind, data: &Arc<dyn Dataset>) -> Result<Option<Evaluation>> {
        let train = &self.config.train;
        let begun = Instant::now();
        let measured = Evaluator::new(&**self.learner.model(), train).run(data, self.observer, self.stop)?;
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

    fn save_is_due(&self, validated: bool) -> bool {
        let batches = self.state.counts.batches;
        match self.config.train.save_state_every {
            Some(every) => validated || batches.is_multiple_of(every as u64),
            None => validated || self.saved_at.elapsed() >= MAX_UNSAVED,
        }
    }

    /// Saves the state; on failure warns, keeps the previous state, and the run continues.
    fn save_or_warn(&mut self) -> Result<()> {
        let Err(error) = self.save()? else { return Ok(()) };
        let message = format!("the training state could not be saved: {error}; {}", self.in_use());
        self.observer.event(&Event::Warning(&message))
    }

    /// Describes the state from which the run could resume now.
    fn in_use(&self) -> String {
        match &self.saved {
            Some(saved) => format!("{} stays in use", saved.folder.display()),
            None => "there is no earlier state".into(),
        }
    }

    /// Saves the state and removes superfluous files. The inner error is the disk's.
    fn save(&mut self) -> Result<Result<()>> {
        match self.observer.flush() {
            Ok(files) => self.state.files = files,
            Err(error) => return Ok(Err(error)),
        }
        if self.saved.as_ref().is_some_and(|saved| saved.state == self.state) {
            return Ok(Ok(()));
        }
        let folder = match self.states.save(&self.learner, &mut self.state) {
            Ok(folder) => folder,
            Err(error) => return Ok(Err(error)),
        };
        let batches = self.state.counts.batches;
        if let Err(error) = self.models.tidy(&self.state.best, Some(&self.states)) {
            self.observer.event(&Event::Warning(&error.to_string()))?;
        }
        let event = Event::StateSaved {
            folder: &folder,
            batches,
        };
        self.observer.event(&event)?;
        self.saved = Some(SavedAt {
            folder,
            state: self.state.clone(),
        });
        self.saved_at = Instant::now();
        Ok(Ok(()))
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
            let (model, batches) = (self.learner.model(), self.state.counts.batches);
            self.models.add(&**model, batches, None, &mut self.state.best)?;
        }
        self.save()?.map_err(|error| {
            let lost = format!("the last training state could not be saved; {}", self.in_use());
            match error {
                Error::File { path, message } => Error::file(path, format!("{message}: {lost}")),
                other => Error::input(format!("{other}: {lost}")),
            }
        })?;
        if complete {
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
