//! A training run: batches from a data set, validation at points spread over the run, the best models and full states kept.
//!
//! After each batch, in this order: the batch is reported, the model validated if the batch is a point of validation, the
//! model kept if it is among the best, the state saved if it is due. A state that is saved includes all of these, so what comes
//! after it does not depend on whether the run was interrupted. A run that is asked to stop saves its state after the current
//! batch and validates nothing: the validation that may be due is the first thing it does when it goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::best::BestModels;
use super::data::TrainingData;
use super::learner::{Learner, Recipe};
use super::observer::{BatchReport, Event, Observer};
use super::optimizer::configured;
use super::points;
use super::schedule::{Plan, Schedule};
use super::state::{RunState, SavedState, States};
use super::validation::{Evaluator, sample_order};
use super::{Evaluation, EvaluationKind};
use crate::checkpoint::{WEIGHTS_FILE, Weights};
use crate::config::Experiment;
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Position};
use crate::model::{Chunking, Loss, Model, Watch};
use crate::{Error, Result};

/// The longest time without a saved state, where the configuration does not say how often.
const SAVE_AT_LEAST_EVERY: Duration = Duration::from_secs(600);

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Batches trained on, those before a resumption included.
    pub batches: u64,
    /// Where the training goes on if it does.
    pub next: Position,
    /// Loss of the last training batch.
    pub last_loss: Option<Loss>,
    /// The lowest validation loss.
    pub best: Option<Loss>,
    /// The loss of the best model on the test split.
    pub test: Option<Loss>,
    /// The folder of the best model (of the last one where nothing was validated); `None` when there is none yet.
    pub model_folder: Option<PathBuf>,
    /// The folder of the last state.
    pub state_folder: PathBuf,
    /// Whether the run was asked to stop before its end.
    pub stopped: bool,
}

/// A run of an experiment.
pub struct Trainer<'a> {
    experiment: &'a Experiment,
    model: &'a Model,
    data: TrainingData,
    /// The run's folder.
    folder: PathBuf,
    chunking: Chunking,
}

/// A run on its way.
struct Run<'r, 'a> {
    trainer: &'r Trainer<'a>,
    plan: Plan,
    learner: Learner<'a>,
    state: RunState,
    states: States,
    models: BestModels,
    /// The newest state on disk: its folder, what it says, and when it was written.
    saved: Option<(PathBuf, RunState)>,
    saved_at: Instant,
    observer: &'r mut dyn Observer,
    stop: &'r AtomicBool,
}

impl<'a> Trainer<'a> {
    /// A run that writes into `folder`, which exists.
    pub fn new(experiment: &'a Experiment, model: &'a Model, data: TrainingData, folder: &Path) -> Self {
        Self {
            experiment,
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
    pub fn plan(&self) -> Plan {
        Plan::new(&self.experiment.train, self.experiment.params.input_seq_len, 1)
    }

    fn recipe(&self) -> Recipe {
        let train = &self.experiment.train;
        Recipe {
            adam: configured(train),
            schedule: Schedule::new(train.learning_rate, self.plan().steps, train.warmup_steps_perc),
            accumulate: train.gradient_accumulate_every,
            clipping: train.gradient_clipping,
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
            Some(saved) => (saved.restore(self.model, self.recipe())?, saved.state.clone()),
            None => (
                Learner::new(self.model, self.recipe())?,
                RunState::new(self.first_position()),
            ),
        };
        let run = Run {
            trainer: self,
            plan: self.plan(),
            learner,
            saved: from.map(|saved| (saved.folder.clone(), saved.state.clone())),
            saved_at: Instant::now(),
            state,
            states: States::new(&self.folder, self.experiment.train.keep_states),
            models: BestModels::new(&self.folder, self.experiment.io.num_models_to_save),
            observer,
            stop,
        };
        run.finish_plan()
    }

    /// Where the data begin: at the start, or where the map `resume` of the configuration says.
    fn first_position(&self) -> Position {
        match &self.experiment.resume {
            Some(resume) => Position {
                epoch: resume.next_epoch_index,
                batch: resume.next_batch_index,
            },
            None => Position::default(),
        }
    }
}

impl Run<'_, '_> {
    fn finish_plan(mut self) -> Result<Outcome> {
        let (plan, io) = (self.plan, &self.trainer.experiment.io);
        let validate = self.spread(io.validate_amount, "validate_amount")?;
        let log = self.spread(io.log_train_loss_amount, "log_train_loss_amount")?;
        let done = self.state.counts.batches;
        self.observer.event(&Event::Start { plan, done })?;
        self.validate_if_due()?;
        let mut batches = self.batches()?;
        while self.state.counts.batches < plan.batches && !self.stopped() {
            let Some(batch) = batches.next().transpose()? else {
                break;
            };
            let cum_batch = self.state.counts.batches;
            if !self.learn(&batch, log.binary_search(&cum_batch).is_ok())? {
                break;
            }
            self.state.validation_due = self.trainer.data.validation.is_some()
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

    /// Points spread over the run; warns when there are fewer batches than were asked for.
    fn spread(&mut self, amount: usize, key: &str) -> Result<Vec<u64>> {
        let batches = self.plan.batches;
        if amount as u64 > batches && self.state.counts.batches == 0 {
            let message = format!("io.{key}: {amount} is more than the run has batches; it is done {batches} times");
            self.observer.event(&Event::Warning(&message))?;
        }
        Ok(points::spread(0, batches, amount))
    }

    fn batches(&self) -> Result<Loader> {
        let train = &self.trainer.experiment.train;
        let order = sample_order(train.shuffle_train, train.seed);
        let options = LoaderOptions::training(train.batch_size, order, self.state.next);
        Loader::new(self.trainer.data.train.clone(), options)
    }

    /// Learns from a batch; returns whether it did, and not whether the run was asked to stop in the middle of it.
    fn learn(&mut self, batch: &Batch, logged: bool) -> Result<bool> {
        let cum_batch = self.state.counts.batches;
        let model_batch = super::model_batch(batch)?;
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
        let found = (self.learner).learn_watched(&model_batch, batch.position.batch as u64, watch);
        let percent = percent.into_inner();
        let learned = match found {
            Ok(learned) => learned,
            Err(Error::Stopped { .. }) => {
                let message = format!("stopped {percent} % into batch {cum_batch}: a run that goes on begins it anew");
                self.observer.event(&Event::Warning(&message))?;
                return Ok(false);
            }
            Err(error) => {
                let message = format!("failed {percent} % into batch {cum_batch}; {}", self.in_use());
                self.observer.event(&Event::Warning(&message))?;
                return Err(error);
            }
        };
        let norm = learned.norm.map_or(0.0, |norm| norm.before);
        for (what, value) in [("the loss", learned.loss.mean), ("the norm of the gradient", norm)] {
            if !value.is_finite() {
                let Position { epoch, batch: index } = batch.position;
                let samples = &batch.samples;
                let place = format!("batch {cum_batch} (epoch {epoch}, batch {index} of it, samples {samples:?})");
                return Err(self.not_finite(what, value, place));
            }
        }
        self.state.counts = self.learner.counts();
        self.state.last_loss = Some(learned.loss);
        self.state.last = batch.position;
        self.state.next = batch.next;
        self.observer.event(&Event::Batch(BatchReport {
            epoch: batch.position.epoch,
            batch: batch.position.batch,
            cum_batch,
            elements_seen: self.elements_seen(),
            samples: batch.rows,
            bytes: batch.ids.len(),
            loss: learned.loss,
            rate: learned.rate,
            norm: learned.norm,
            logged,
            forward: learned.forward,
            backward: learned.backward,
        }))?;
        Ok(true)
    }

    fn not_finite(&self, what: &'static str, value: f64, place: String) -> Error {
        Error::NotFinite {
            what,
            value,
            place,
            state: self.saved.as_ref().map(|(folder, _)| folder.clone()),
        }
    }

    fn elements_seen(&self) -> u64 {
        self.state.counts.batches * self.plan.elements_per_batch
    }

    /// Evaluates on the validation data if that is due and the run is not asked to stop, and keeps the model if it is among
    /// the best. Returns whether it did.
    fn validate_if_due(&mut self) -> Result<bool> {
        let Some(data) = self
            .trainer
            .data
            .validation
            .clone()
            .filter(|_| self.state.validation_due)
        else {
            return Ok(false);
        };
        let Some(evaluation) = self.evaluate(EvaluationKind::Validation, &data)? else {
            return Ok(false);
        };
        let (batches, loss) = (self.state.counts.batches, evaluation.loss);
        if !loss.mean.is_finite() {
            let place = format!("the validation after batch {}", evaluation.cum_batch);
            return Err(self.not_finite("the validation loss", loss.mean, place));
        }
        let best = self.state.best.first().and_then(|best| best.loss);
        self.observer.event(&Event::Evaluated(Evaluation {
            best: best.is_none_or(|best| loss.mean < best.mean),
            ..evaluation
        }))?;
        self.state.validation_due = false;
        if self.models.takes(&self.state.best, loss) {
            let (model, best) = (self.trainer.model, &mut self.state.best);
            if let Err(error) = self.models.add(model, batches, Some(loss), best) {
                let message = format!("the model was not kept, the earlier ones stay: {error}");
                self.observer.event(&Event::Warning(&message))?;
            }
        }
        Ok(true)
    }

    /// The model's loss on `data`, not called the best; `None` when the run was asked to stop meanwhile.
    fn evaluate(&mut self, kind: EvaluationKind, data: &Arc<dyn Dataset>) -> Result<Option<Evaluation>> {
        let train = &self.trainer.experiment.train;
        let begun = Instant::now();
        let found = Evaluator::new(self.trainer.model, train).run(data, self.observer, self.stop)?;
        Ok(found.map(|(loss, samples)| Evaluation {
            kind,
            epoch: self.state.last.epoch,
            batch: self.state.last.batch,
            cum_batch: self.state.counts.batches.saturating_sub(1),
            elements_seen: self.elements_seen(),
            samples,
            loss,
            accuracy: None,
            time: begun.elapsed(),
            best: false,
        }))
    }

    fn save_is_due(&self, validated: bool) -> bool {
        let batches = self.state.counts.batches;
        match self.trainer.experiment.train.save_state_every {
            Some(every) => validated || batches.is_multiple_of(every as u64),
            None => validated || self.saved_at.elapsed() >= SAVE_AT_LEAST_EVERY,
        }
    }

    /// Saves the state; if that fails, the one before stays in use, and the run goes on.
    fn save_or_warn(&mut self) -> Result<()> {
        let Err(error) = self.save()? else { return Ok(()) };
        let message = format!("the training state was not saved: {error}; {}", self.in_use());
        self.observer.event(&Event::Warning(&message))
    }

    /// What a run could go on from now.
    fn in_use(&self) -> String {
        match &self.saved {
            Some((folder, _)) => format!("{} stays in use", folder.display()),
            None => "there is no earlier one".into(),
        }
    }

    /// Saves the state and tidies up what it makes superfluous. The inner error is that of the disk.
    fn save(&mut self) -> Result<Result<()>> {
        match self.observer.flush() {
            Ok(files) => self.state.files = files,
            Err(error) => return Ok(Err(error)),
        }
        if self.saved.as_ref().is_some_and(|(_, saved)| *saved == self.state) {
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
        self.saved = Some((folder, self.state.clone()));
        self.saved_at = Instant::now();
        Ok(Ok(()))
    }

    /// Saves the last state, and measures the best model of a run that is complete.
    fn end(mut self) -> Result<Outcome> {
        let complete = !self.stopped() && !self.state.validation_due;
        if !complete {
            self.observer.event(&Event::Stopping)?;
        }
        if complete && self.state.best.is_empty() {
            let (model, batches) = (self.trainer.model, self.state.counts.batches);
            self.models.add(model, batches, None, &mut self.state.best)?;
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
        let test = match (&self.trainer.data.test, complete) {
            (Some(test), true) => self.test(&test.clone())?,
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
            state_folder: self.saved.map(|(folder, _)| folder).unwrap_or_default(),
            stopped,
        })
    }

    /// The loss of the best model on the test data; `None` when the run was asked to stop meanwhile.
    fn test(&mut self, test: &Arc<dyn Dataset>) -> Result<Option<Loss>> {
        let Some(best) = self.state.best.first() else {
            return Ok(None);
        };
        let weights = Weights::open(&self.models.path(best).join(WEIGHTS_FILE))?;
        weights.load_into(self.trainer.model.parameters())?;
        let Some(evaluation) = self.evaluate(EvaluationKind::Test, test)? else {
            return Ok(None);
        };
        self.observer.event(&Event::Evaluated(evaluation))?;
        Ok(Some(evaluation.loss))
    }
}
