//! The mean loss over a data set, each prediction counted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::observer::{Event, Observer};
use super::parallel::{Peers, Told, WorkerLoss};
use super::trainable::{Metric, Trainable};
use crate::Result;
use crate::config::TrainConfig;
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Order};
use crate::model::{Loss, ModelBatch};
use serde::{Deserialize, Serialize};

/// Evaluates a model as configured: batch size, order, number of batches.
///
/// Several ranks share the batches: rank r evaluates the batches r, r + R, r + 2·R, …; sums are
/// taken in the order of the batches, so that they have the bits of a single process.
pub(super) struct Evaluator<'a> {
    model: &'a dyn Trainable,
    train: &'a TrainConfig,
    peers: &'a Peers,
}

/// The evaluation of one batch, as ranks exchange it.
#[derive(Serialize, Deserialize)]
struct Evaluated {
    loss: WorkerLoss,
    rows: usize,
    /// The sum and the count of the metric.
    metric: Option<(f64, usize)>,
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
    pub(super) fn new(model: &'a dyn Trainable, train: &'a TrainConfig, peers: &'a Peers) -> Self {
        Self { model, train, peers }
    }

    /// Evaluates the model on `dataset`; `None` if `stop` was set meanwhile.
    pub(super) fn run(
        &self,
        dataset: &Arc<dyn Dataset>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Measured>> {
        let (rank, ranks) = (self.peers.group().rank(), self.peers.group().size());
        let EvaluationBatches { batches, count: of } = evaluation_batches(self.train, dataset.clone())?;
        let (mut found, mut stopped, mut failure, mut name) = (Vec::new(), false, None, "");
        for (index, batch) in batches.enumerate() {
            stopped = stop.load(Ordering::Relaxed);
            if stopped {
                break;
            }
            if index % ranks != rank {
                continue;
            }
            match batch.and_then(|batch| Ok((self.model.evaluate(&model_batch(&batch))?, batch.rows))) {
                Ok((evaluation, rows)) => {
                    let metric = evaluation.metric.map(|metric| {
                        name = metric.name;
                        (metric.sum, metric.count)
                    });
                    let loss = evaluation.loss.into();
                    found.push(Evaluated { loss, rows, metric });
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            observer.event(&Event::Evaluating { done: index + 1, of })?;
        }
        let Some(found) = self.gather(found, stopped, failure)? else {
            return Ok(None);
        };
        let (mut sum, mut count, mut samples, mut weighted) = (0.0, 0, 0, false);
        let mut metric: Option<Metric> = None;
        for Evaluated {
            loss,
            rows,
            metric: more,
        } in found
        {
            let loss = Loss::from(loss);
            // a batch without a prediction that counts adds nothing, whatever its mean
            if loss.count > 0 {
                sum += loss.mean * loss.count as f64;
            }
            count += loss.count;
            weighted |= loss.weighted;
            samples += rows;
            if let Some((more, counted)) = more {
                let so_far = metric.get_or_insert(Metric {
                    name,
                    sum: 0.0,
                    count: 0,
                });
                so_far.sum += more;
                so_far.count += counted;
            }
        }
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        Ok(Some(Measured {
            loss: Loss { mean, count, weighted },
            metric,
            samples,
        }))
    }

    /// The evaluations of all ranks in the order of the batches; `None` if a rank was asked to
    /// stop.
    fn gather(
        &self,
        own: Vec<Evaluated>,
        stopped: bool,
        failure: Option<crate::Error>,
    ) -> Result<Option<Vec<Evaluated>>> {
        if self.peers.alone() {
            return match failure {
                Some(error) => Err(error),
                None => Ok((!stopped).then_some(own)),
            };
        }
        let told = Told {
            error: failure.map(|error| error.to_string()),
            stop: stopped,
            ..Told::default()
        };
        if self.peers.exchange(told)?.stop {
            return Ok(None);
        }
        let mut ranks: Vec<_> = self.peers.gather(&own)?.into_iter().map(Vec::into_iter).collect();
        let count = ranks.len();
        let in_order = (0..).map_while(|index: usize| ranks[index % count].next());
        Ok(Some(in_order.collect()))
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
