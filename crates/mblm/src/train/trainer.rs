//! A training run: batches from a data set, validation at points spread over the run, the best model kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use mblm_ops::adam::Adam;

use super::learner::{Learner, Recipe};
use super::observer::{BatchReport, Evaluation, EvaluationKind, Event, Observer};
use super::optimizer::PUBLISHED_ADAM;
use super::points;
use super::schedule::{Plan, Schedule};
use crate::checkpoint::{Folder, RUN_MODEL};
use crate::config::{Experiment, OptimizerKind};
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Order, Position};
use crate::model::{Loss, Model, ModelBatch};
use crate::{Error, Result};

/// The data of a run.
#[derive(Clone)]
pub struct TrainingData {
    /// What the model learns from.
    pub train: Arc<dyn Dataset>,
    /// What chooses the best model.
    pub validation: Option<Arc<dyn Dataset>>,
    /// What the best model is measured on at the end.
    pub test: Option<Arc<dyn Dataset>>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Batches trained on.
    pub batches: u64,
    /// Loss of the last training batch.
    pub last_loss: Option<Loss>,
    /// The lowest validation loss.
    pub best: Option<Loss>,
    /// The loss of the best model on the test split.
    pub test: Option<Loss>,
    /// The folder of the best model (of the last one where nothing was validated).
    pub model_folder: PathBuf,
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
}

impl<'a> Trainer<'a> {
    /// A run that writes into `folder`, which exists.
    pub fn new(experiment: &'a Experiment, model: &'a Model, data: TrainingData, folder: &Path) -> Self {
        Self {
            experiment,
            model,
            data,
            folder: folder.to_path_buf(),
        }
    }

    /// The length of the run.
    pub fn plan(&self) -> Plan {
        Plan::new(&self.experiment.train, self.experiment.params.input_seq_len, 1)
    }

    fn recipe(&self) -> Recipe {
        let train = &self.experiment.train;
        Recipe {
            adam: Adam {
                weight_decay: match train.optimizer {
                    OptimizerKind::Adam => 0.0,
                    OptimizerKind::AdamW => train.weight_decay,
                },
                ..PUBLISHED_ADAM
            },
            schedule: Schedule::new(train.learning_rate, self.plan().steps, train.warmup_steps_perc),
            accumulate: train.gradient_accumulate_every,
            clipping: train.gradient_clipping,
            seed: train.seed,
        }
    }

    /// Trains until the end of the plan, or until `stop` is set: then the run ends after the current batch with the best
    /// model so far saved.
    ///
    /// # Errors
    /// Data that cannot be read, outputs that cannot be written, a loss that is not finite.
    pub fn run(&self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let (train, plan) = (&self.experiment.train, self.plan());
        let validate = points::spread(0, plan.batches, self.experiment.io.validate_amount);
        let log = points::spread(0, plan.batches, self.experiment.io.log_train_loss_amount);
        let mut learner = Learner::new(self.model, self.recipe())?;
        let order = order(train.shuffle_train, train.seed);
        let options = LoaderOptions::training(train.batch_size, order, Position::default());
        let mut loader = Loader::new(self.data.train.clone(), options)?;
        let mut outcome = Outcome {
            batches: 0,
            last_loss: None,
            best: None,
            test: None,
            model_folder: self.folder.join(RUN_MODEL),
            stopped: false,
        };
        observer.event(&Event::Start { plan, done: 0 })?;
        for cum_batch in 0..plan.batches {
            let Some(batch) = loader.next().transpose()? else { break };
            let report = self.learn(&mut learner, &batch, cum_batch, log.binary_search(&cum_batch).is_ok())?;
            outcome.batches += 1;
            outcome.last_loss = Some(report.loss);
            observer.event(&Event::Batch(report))?;
            outcome.stopped = stop.load(Ordering::Relaxed);
            let last = cum_batch + 1 == plan.batches || outcome.stopped;
            if validate.binary_search(&cum_batch).is_ok() || last {
                self.validate(cum_batch, &mut outcome, observer, stop)?;
            }
            if outcome.stopped {
                break;
            }
        }
        if outcome.best.is_none() {
            self.model.save(&outcome.model_folder)?;
        }
        if let (Some(test), false) = (&self.data.test, outcome.stopped) {
            outcome.test = self.test(test, &outcome, observer, stop)?;
        }
        Ok(outcome)
    }

    fn learn(&self, learner: &mut Learner<'_>, batch: &Batch, cum_batch: u64, logged: bool) -> Result<BatchReport> {
        let learned = learner.learn(&model_batch(self.model, batch)?, batch.position.batch as u64)?;
        if !learned.loss.mean.is_finite() {
            return Err(Error::NotFinite {
                loss: learned.loss.mean,
                place: format!(
                    "batch {cum_batch} (epoch {}, batch {} of it, samples {:?})",
                    batch.position.epoch, batch.position.batch, batch.samples
                ),
            });
        }
        Ok(BatchReport {
            epoch: batch.position.epoch,
            batch: batch.position.batch,
            cum_batch,
            elements_seen: (cum_batch + 1) * self.plan().elements_per_batch,
            samples: batch.rows,
            bytes: batch.ids.len(),
            loss: learned.loss,
            rate: learned.rate,
            norm: learned.norm,
            logged,
            forward: learned.forward,
            backward: learned.backward,
        })
    }

    /// Evaluates on the validation data, and keeps the model if it is the best so far. The evaluation that ends a stopped run
    /// is finished, so that what the run has learned is not lost; a second signal ends the program.
    fn validate(
        &self,
        cum_batch: u64,
        outcome: &mut Outcome,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        let Some(validation) = &self.data.validation else {
            return Ok(());
        };
        let stop = (!outcome.stopped).then_some(stop);
        let Some(loss) = self.evaluate(validation, observer, stop)? else {
            return Ok(());
        };
        let best = outcome.best.is_none_or(|best| loss.mean < best.mean);
        observer.event(&Event::Evaluated(Evaluation {
            kind: EvaluationKind::Validation,
            epoch: 0,
            batch: 0,
            cum_batch,
            elements_seen: 0,
            samples: 0,
            time: std::time::Duration::ZERO,
            loss,
            best,
        }))?;
        if best {
            self.model.save(&outcome.model_folder)?;
            outcome.best = Some(loss);
        }
        Ok(())
    }

    /// The loss of the best model on the test data; `None` when the run was asked to stop meanwhile.
    fn test(
        &self,
        test: &Arc<dyn Dataset>,
        outcome: &Outcome,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Loss>> {
        let best = Folder::open(&outcome.model_folder)?;
        for parameter in self.model.parameters().iter() {
            let value = parameter.value();
            let saved = best
                .weights
                .load(parameter.name(), value.dims(), value.dtype(), value.device())?;
            parameter.set(&saved)?;
        }
        let Some(loss) = self.evaluate(test, observer, Some(stop))? else {
            return Ok(None);
        };
        observer.event(&Event::Evaluated(Evaluation {
            kind: EvaluationKind::Test,
            epoch: 0,
            batch: 0,
            cum_batch: outcome.batches.saturating_sub(1),
            elements_seen: 0,
            samples: 0,
            time: std::time::Duration::ZERO,
            loss,
            best: false,
        }))?;
        Ok(Some(loss))
    }

    /// The mean loss over a data set, each prediction counted once; `None` when `stop` was set meanwhile.
    fn evaluate(
        &self,
        dataset: &Arc<dyn Dataset>,
        observer: &mut dyn Observer,
        stop: Option<&AtomicBool>,
    ) -> Result<Option<Loss>> {
        let train = &self.experiment.train;
        let order = order(train.shuffle_eval, train.seed);
        let options = LoaderOptions::evaluation(train.batch_size, order);
        let of = options
            .batches(&**dataset, 0)
            .min(train.max_eval_steps.unwrap_or(usize::MAX));
        let (mut sum, mut count) = (0.0, 0);
        for (index, batch) in Loader::new(dataset.clone(), options)?.take(of).enumerate() {
            let loss = self.model.loss(&model_batch(self.model, &batch?)?)?;
            sum += loss.mean * loss.count as f64;
            count += loss.count;
            observer.event(&Event::Evaluating { done: index + 1, of })?;
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) && index + 1 < of {
                return Ok(None);
            }
        }
        Ok(Some(Loss {
            mean: if count == 0 { 0.0 } else { sum / count as f64 },
            count,
        }))
    }
}

fn order(shuffle: bool, seed: u64) -> Order {
    match shuffle {
        true => Order::Shuffled { seed },
        false => Order::Sequential,
    }
}

/// A batch of a data set as tensors on the model's device.
pub fn model_batch(model: &Model, batch: &Batch) -> Result<ModelBatch> {
    let (device, shape) = (model.device(), (batch.rows, batch.len));
    let ids = |ids: &[u32]| -> Result<Tensor> { Ok(Tensor::from_slice(ids, shape, device)?) };
    let masked: Option<Vec<f32>> = batch
        .masked
        .as_ref()
        .map(|masked| masked.iter().map(|masked| f32::from(u8::from(*masked))).collect());
    let weights = match (&batch.loss_weights, masked) {
        (Some(weights), Some(masked)) => Some(weights.iter().zip(masked).map(|(w, m)| w * m).collect()),
        (Some(weights), None) => Some(weights.clone()),
        (None, masked) => masked,
    };
    Ok(ModelBatch {
        ids: ids(&batch.ids)?,
        loss_mask: weights
            .map(|weights: Vec<f32>| Tensor::from_vec(weights, shape, device))
            .transpose()?,
        labels: batch.labels.as_deref().map(ids).transpose()?,
    })
}
