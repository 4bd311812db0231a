//! The mean loss over a data set, each prediction counted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};

use super::observer::{Event, Observer};
use crate::Result;
use crate::config::TrainConfig;
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Order};
use crate::model::{Loss, Model, ModelBatch};

/// Measures a model as the configuration says: batch size, order, most batches.
pub(super) struct Evaluator<'a> {
    model: &'a Model,
    train: &'a TrainConfig,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(model: &'a Model, train: &'a TrainConfig) -> Self {
        Self { model, train }
    }

    /// The mean loss and the number of samples; `None` when `stop` was set meanwhile.
    pub(super) fn run(
        &self,
        dataset: &Arc<dyn Dataset>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<(Loss, usize)>> {
        let (batches, of) = evaluation_batches(self.train, dataset.clone())?;
        let (mut sum, mut count, mut samples) = (0.0, 0, 0);
        for (index, batch) in batches.enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = batch?;
            let loss = self.model.loss(&model_batch(&batch)?)?;
            // a batch without a prediction that counts adds nothing, whatever its mean
            if loss.count > 0 {
                sum += loss.mean * loss.count as f64;
            }
            count += loss.count;
            samples += batch.rows;
            observer.event(&Event::Evaluating { done: index + 1, of })?;
        }
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        Ok(Some((Loss { mean, count }, samples)))
    }
}

/// The batches that an evaluation takes of `dataset` as the configuration says, and how many there are.
pub(crate) fn evaluation_batches(
    train: &TrainConfig,
    dataset: Arc<dyn Dataset>,
) -> Result<(impl Iterator<Item = Result<Batch>>, usize)> {
    let options = LoaderOptions::evaluation(train.batch_size, sample_order(train.shuffle_eval, train.seed));
    let of = options
        .batches(&*dataset, 0)
        .min(train.max_eval_steps.unwrap_or(usize::MAX));
    Ok((Loader::new(dataset, options)?.take(of), of))
}

/// The order of samples that the configuration's `shuffle_…` and `seed` mean.
pub(crate) fn sample_order(shuffle: bool, seed: u64) -> Order {
    match shuffle {
        true => Order::Shuffled { seed },
        false => Order::Sequential,
    }
}

/// A batch of a data set as tensors; on the CPU, where the model checks and pads them.
pub fn model_batch(batch: &Batch) -> Result<ModelBatch> {
    let (device, shape) = (&Device::Cpu, (batch.rows, batch.len));
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
