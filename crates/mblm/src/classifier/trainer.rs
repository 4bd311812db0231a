//! A run of the baseline: batches of questions, Adam, validation at points spread over the run, the best model kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::network::{CnnLstm, loss};
use super::samples::PictureQuestions;
use crate::checkpoint::{self, INDEX_FILE, MODELS, atomic};
use crate::config::ClassifierExperiment;
use crate::data::{Loader, LoaderOptions, Order, Position};
use crate::model::Gradients;
use crate::train::{Optimizer, Plan, Schedule, configured, sample_order, spread};
use crate::{Error, Result};

/// A moment of a run.
#[derive(Clone, Copy, Debug)]
pub enum Report {
    /// A batch has been learned from.
    Batch {
        /// Batches done, this one included.
        done: u64,
        /// Batches of the run.
        of: u64,
        /// The batch's mean loss in nats an answer.
        loss: f64,
        /// The learning rate.
        rate: f64,
    },
    /// The network has been validated.
    Validated {
        /// Batches that it has learned from.
        batches: u64,
        /// The share of right answers, 0 to 1.
        accuracy: f64,
        /// Whether it is the best so far.
        best: bool,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Batches learned from.
    pub batches: u64,
    /// The best model's folder and its share of right answers in validation.
    pub best: Option<(PathBuf, f64)>,
}

/// Trains `network` and keeps the best model in `folder`/models, until the run's end or until `stop` is set.
///
/// # Errors
/// Data that cannot be read, a loss that is not finite, a model that cannot be written, and those of `on`.
pub fn train(
    experiment: &ClassifierExperiment,
    network: &CnnLstm,
    training: Arc<PictureQuestions>,
    validation: &Arc<PictureQuestions>,
    folder: &Path,
    on: &mut dyn FnMut(Report) -> Result<()>,
    stop: &AtomicBool,
) -> Result<Learned> {
    let config = &experiment.train;
    let plan = Plan::new(config, 1, 1);
    let schedule = Schedule::new(config.learning_rate, plan.steps, config.warmup_steps_perc);
    let mut optimizer = Optimizer::new(configured(config), network.parameters())?;
    let mut gradients = Gradients::zeros(network.parameters())?;
    let order = sample_order(config.shuffle_train, config.seed);
    let points = spread(0, plan.batches, experiment.io.validate_amount.max(1));
    let options = LoaderOptions::training(config.batch_size, order, Position::default());
    let mut batches = Loader::new(training, options)?;
    let mut learned = Learned { batches: 0, best: None };
    while learned.batches < plan.batches && !stop.load(Ordering::Relaxed) {
        let Some(batch) = batches.next().transpose()? else {
            break;
        };
        let input = network.input(&batch)?;
        let loss = loss(&network.logits(&input, true)?, &input.answers)?;
        let graph = loss.backward()?;
        for parameter in network.parameters().iter() {
            if let Some(gradient) = graph.get(parameter.tracked()) {
                gradients.of(parameter).add(gradient)?;
            }
        }
        let rate = schedule.rate(optimizer.steps());
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(Error::NotFinite {
                what: "the loss",
                value,
                place: format!("batch {} (samples {:?})", learned.batches, batch.samples),
                state: None,
            });
        }
        optimizer.step(&gradients, rate, config.gradient_clipping)?;
        gradients.clear()?;
        let index = learned.batches;
        learned.batches += 1;
        on(Report::Batch {
            done: learned.batches,
            of: plan.batches,
            loss: value,
            rate,
        })?;
        if points.binary_search(&index).is_ok() || learned.batches == plan.batches {
            let Some(accuracy) = accuracy(network, validation, config.max_eval_steps, config.batch_size, stop)? else {
                break;
            };
            let best = learned.best.as_ref().is_none_or(|(_, best)| accuracy > *best);
            if best {
                let path = keep(network, folder, learned.batches, accuracy)?;
                if let Some((earlier, _)) = learned.best.replace((path, accuracy)) {
                    atomic::remove(&earlier)?;
                }
            }
            on(Report::Validated {
                batches: learned.batches,
                accuracy,
                best,
            })?;
        }
    }
    Ok(learned)
}

/// Writes a model folder, and the list in which a run's folder names its best model.
fn keep(network: &CnnLstm, run: &Path, batches: u64, accuracy: f64) -> Result<PathBuf> {
    let models = run.join(MODELS);
    atomic::make_folder(&models)?;
    let name = checkpoint::batch_folder(batches);
    let path = models.join(&name);
    atomic::write_folder(&path, |new| network.fill_folder(new))?;
    let index = serde_json::json!([{"folder": name, "batches": batches, "loss": null, "accuracy": accuracy}]);
    atomic::write(&models.join(INDEX_FILE), |out| writeln!(out, "{index:#}"))?;
    Ok(path)
}

/// The share of right answers in the first `most` batches; `None` when the run was asked to stop meanwhile.
fn accuracy(
    network: &CnnLstm,
    data: &Arc<PictureQuestions>,
    most: Option<usize>,
    batch_size: usize,
    stop: &AtomicBool,
) -> Result<Option<f64>> {
    let options = LoaderOptions::evaluation(batch_size, Order::Sequential);
    let (mut right, mut count) = (0, 0);
    for batch in Loader::new(data.clone(), options)?.take(most.unwrap_or(usize::MAX)) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let answers = network.answer(&batch)?;
        let truth = batch.ids.chunks_exact(batch.len).filter_map(|row| row.last());
        right += answers
            .iter()
            .zip(truth)
            .filter(|(found, truth)| **found == **truth as usize)
            .count();
        count += batch.rows;
    }
    Ok(Some(right as f64 / count.max(1) as f64))
}
