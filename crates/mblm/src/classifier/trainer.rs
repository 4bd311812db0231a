//! A run of the baseline: batches of questions, Adam, validation at points spread over the run, the best model kept. It tells its
//! [`Observer`] what a run of a byte model does; losses are in nats an answer, elements are questions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::network::{CnnLstm, loss};
use super::samples::PictureQuestions;
use crate::checkpoint::{self, INDEX_FILE, MODELS, atomic};
use crate::config::ClassifierExperiment;
use crate::data::{Loader, LoaderOptions, Position};
use crate::model::{Gradients, Loss};
use crate::train::{
    BatchReport, Evaluation, EvaluationBatches, EvaluationKind, Event, Metric, Observer, Recipe, RunPlan,
    evaluation_batches, sample_order, spread,
};
use crate::{Error, Result};

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
/// Data that cannot be read, a loss that is not finite, a model that cannot be written, and those of `observer`.
pub fn train(
    experiment: &ClassifierExperiment,
    network: &CnnLstm,
    training: Arc<PictureQuestions>,
    validation: &Arc<PictureQuestions>,
    folder: &Path,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Learned> {
    let config = &experiment.train;
    let plan = RunPlan::new(config, 1, 1);
    let recipe = Recipe::of(config, &plan);
    let mut optimizer = recipe.optimizer.build(network.parameters())?;
    let mut gradients = Gradients::zeros(network.parameters())?;
    let order = sample_order(config.shuffle_train, config.seed);
    let validate = spread(0, plan.batches, experiment.io.validate_amount.max(1));
    let log = spread(0, plan.batches, experiment.io.log_train_loss_amount);
    let options = LoaderOptions::training(config.batch_size, order, Position::default());
    let mut batches = Loader::new(training, options)?;
    let mut learned = Learned { batches: 0, best: None };
    observer.event(&Event::Start { plan, done: 0 })?;
    while learned.batches < plan.batches && !stop.load(Ordering::Relaxed) {
        let Some(batch) = batches.next().transpose()? else {
            break;
        };
        let cum_batch = learned.batches;
        let rate = recipe.schedule.lr(optimizer.steps());
        let begun = Instant::now();
        let input = network.input(&batch)?;
        let loss = loss(&network.logits(&input, true)?, &input.answers)?;
        let mean = f64::from(loss.to_scalar::<f32>()?);
        let forward = begun.elapsed();
        let finite = |what, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite {
                what,
                value,
                place: format!("batch {cum_batch} (samples {:?})", batch.samples),
                state: None,
            }),
        };
        finite("the loss", mean)?;
        let graph = loss.backward()?;
        for parameter in network.parameters().iter() {
            if let Some(gradient) = graph.get(parameter.tracked()) {
                gradients.of(parameter).add(gradient)?;
            }
        }
        let norm = optimizer.step(&gradients, rate, recipe.max_grad_norm)?;
        finite("the norm of the gradient", norm.before)?;
        gradients.clear()?;
        learned.batches += 1;
        let elements_seen = learned.batches * plan.elements_per_batch;
        observer.event(&Event::Batch(BatchReport {
            epoch: batch.position.epoch,
            batch: batch.position.batch,
            cum_batch,
            elements_seen,
            samples: batch.rows,
            bytes: batch.ids.len(),
            loss: Loss {
                mean,
                count: batch.rows,
            },
            lr: rate,
            norm: Some(norm),
            logged: log.binary_search(&cum_batch).is_ok(),
            forward,
            backward: begun.elapsed() - forward,
        }))?;
        if validate.binary_search(&cum_batch).is_ok() || learned.batches == plan.batches {
            let begun = Instant::now();
            let Some(found) = evaluate(experiment, network, validation, observer, stop)? else {
                break;
            };
            let best = (learned.best.as_ref()).is_none_or(|(_, best)| found.accuracy > *best);
            observer.event(&Event::Evaluated(Evaluation {
                kind: EvaluationKind::Validation,
                epoch: batch.position.epoch,
                batch: batch.position.batch,
                cum_batch,
                elements_seen,
                samples: found.loss.count,
                loss: found.loss,
                metric: Some(Metric {
                    name: Metric::ACCURACY,
                    sum: found.right as f64,
                    count: found.loss.count,
                }),
                time: begun.elapsed(),
                best,
            }))?;
            if best {
                let path = keep(network, folder, learned.batches, &found)?;
                if let Some((earlier, _)) = learned.best.replace((path, found.accuracy)) {
                    atomic::remove(&earlier)?;
                }
            }
        }
    }
    let (batches, stopped) = (learned.batches, stop.load(Ordering::Relaxed));
    observer.event(&Event::End { batches, stopped })?;
    Ok(learned)
}

/// What a validation found.
struct Found {
    /// In nats an answer.
    loss: Loss,
    /// The share of right answers, 0 to 1.
    accuracy: f64,
    /// Right answers.
    right: usize,
}

/// Writes a model folder, and the list in which a run's folder names its best model.
fn keep(network: &CnnLstm, run: &Path, batches: u64, found: &Found) -> Result<PathBuf> {
    let models = run.join(MODELS);
    atomic::make_folder(&models)?;
    let name = checkpoint::batch_folder(batches);
    let path = models.join(&name);
    atomic::write_folder(&path, |new| network.fill_folder(new))?;
    let index = serde_json::json!([
        {"folder": name, "batches": batches, "loss": found.loss, "accuracy": found.accuracy}
    ]);
    atomic::write(&models.join(INDEX_FILE), |out| writeln!(out, "{index:#}"))?;
    Ok(path)
}

/// Loss and accuracy over as many validation batches as the configuration says; `None` when the run was asked to stop meanwhile.
fn evaluate(
    experiment: &ClassifierExperiment,
    network: &CnnLstm,
    data: &Arc<PictureQuestions>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Option<Found>> {
    let EvaluationBatches { batches, count: of } = evaluation_batches(&experiment.train, data.clone())?;
    let (mut sum, mut right, mut count) = (0.0, 0, 0);
    for (index, batch) in batches.enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = batch?;
        let input = network.input(&batch)?;
        let logits = network.logits(&input, false)?;
        sum += f64::from(loss(&logits, &input.answers)?.to_scalar::<f32>()?) * batch.rows as f64;
        let (answers, truth) = (logits.argmax(1)?.to_vec1::<u32>()?, input.answers.to_vec1::<u32>()?);
        right += answers
            .iter()
            .zip(&truth)
            .filter(|(found, truth)| found == truth)
            .count();
        count += batch.rows;
        observer.event(&Event::Evaluating { done: index + 1, of })?;
    }
    let share = |part: f64| part / count.max(1) as f64;
    Ok(Some(Found {
        loss: Loss {
            mean: share(sum),
            count,
        },
        accuracy: share(right as f64),
        right,
    }))
}
