//! The mean loss over a data set, each prediction counted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::observer::{Event, Observer};
use super::trainable::{Metric, Trainable};
use crate::Result;
use crate::config::TrainConfig;
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Order};
use crate::model::{Loss, ModelBatch};

/// Evaluates a model as configured: batch size, order, number of batches.
pub(super) struct Evaluator<'a> {
    model: &'a dyn Trainable,
    train: &'a TrainConfig,
}

/// The result of an evaluation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The mean over all predictions that count.
    pub(super) loss: Loss,
    /// The mean over all batches of the model's metric, if any.
    pub(super) metric: Option<Metric>,
    /// Samples evaluated.
    pub(super) samples: usize,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(model: &'a dyn Trainable, train: &'a TrainConfig) -> Self {
        Self { model, train }
    }

    /// Evaluates the model on `dataset`; `None` if `stop` was set meanwhile.
    pub(super) fn run(
        &self,
        dataset: &Arc<dyn Dataset>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Measured>> {
        let EvaluationBatches { batches, count: of } = evaluation_batches(self.train, dataset.clone())?;
        let (mut sum, mut count, mut samples, mut weighted) = (0.0, 0, 0, false);
        let mut metric: Option<Metric> = None;
        for (index, batch) in batches.enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = batch?;
            let found = self.model.evaluate(&model_batch(&batch))?;
            // a batch without a prediction that counts adds nothing, whatever its mean
            if found.loss.count > 0 {
                sum += found.loss.mean * found.loss.count as f64;
            }
            count += found.loss.count;
            weighted |= found.loss.weighted;
            samples += batch.rows;
            if let Some(more) = found.metric {
                let so_far = metric.get_or_insert(Metric {
                    sum: 0.0,
                    count: 0,
                    ..more
                });
                so_far.sum += more.sum;
                so_far.count += more.count;
            }
            observer.event(&Event::Evaluating { done: index + 1, of })?;
        }
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        Ok(Some(Measured {
            loss: Loss { mean, count, weighted },
            metric,
            samples,
        }))
    }
}

/// The batches of an evaluation.
struct EvaluationBatches<B> {
    batches: B,
    /// The number of batches.
    count: usize,
}

/// The batches of `dataset` that the configuration evaluates.
fn evaluation_batches(
    train: &TrainConfig,
    dataset: Arc<dyn Dataset>,
) -> Result<EvaluationBatches<impl Iterator<Item = Result<Batch>>>> {
    let options = LoaderOptions::evaluation(train.batch_size, sample_order(train.shuffle_eval, train.seed));
    let count = options
        .batches(&*dataset, 0)
        .min(train.max_eval_steps.unwrap_or(usize::MAX));
    Ok(EvaluationBatches {
        batches: Loader::new(dataset, options)?.take(count),
        count,
    })
}

/// The sample order of the configuration's `shuffle_…` and `seed`.
pub(super) fn sample_order(shuffle: bool, seed: u64) -> Order {
    match shuffle {
        true => Order::Shuffled { seed },
        false => Order::Sequential,
    }
}

/// Converts a batch of a data set for a model: if ids are masked, only masked ones count.
pub fn model_batch(batch: &Batch) -> ModelBatch {
    let masked: Option<Vec<f32>> = batch
        .masked
        .as_ref()
        .map(|masked| masked.iter().map(|masked| f32::from(u8::from(*masked))).collect());
    let loss_mask = match (&batch.loss_weights, masked) {
        (Some(weights), Some(masked)) => Some(weights.iter().zip(masked).map(|(w, m)| w * m).collect()),
        (Some(weights), None) => Some(weights.clone()),
        (None, masked) => masked,
    };
    ModelBatch {
        loss_mask,
        labels: batch.labels.clone(),
        ..ModelBatch::new(batch.ids.clone(), batch.rows, batch.len)
    }
}
