//! Scores of a split of a data set, sample by sample as in training: epoch 0, in order, weighted.
//!
//! A decoder predicts each id from the ids before it in its sample. An encoder restores the masked
//! ids; only they count. Padding does not count and is left out.

use std::sync::Arc;

use super::{ByteScore, to_host};
use crate::Result;
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Order, Sample};
use crate::model::Model;
use crate::train::model_batch;

/// An iterator over batches of samples: the scores of all ids in order. Ends after an error.
///
/// Ids that do not count are included, with weight 0, except for padding.
pub struct SplitScores<'a> {
    model: &'a Model,
    loader: Loader,
    samples: usize,
    /// Samples scored.
    done: usize,
    pad: u32,
}

impl<'a> SplitScores<'a> {
    /// Scores the first `max_samples` samples of a split, `batch_size` at once.
    ///
    /// # Errors
    /// A batch size of 0, or a split without samples.
    pub fn new(
        model: &'a Model,
        dataset: Arc<dyn Dataset>,
        batch_size: usize,
        max_samples: Option<usize>,
    ) -> Result<Self> {
        let samples = dataset.len(0).min(max_samples.unwrap_or(usize::MAX));
        let first = First { dataset, samples };
        Ok(Self {
            model,
            loader: Loader::new(
                Arc::new(first),
                LoaderOptions::evaluation(batch_size, Order::Sequential),
            )?,
            samples,
            done: 0,
            pad: model.architecture().model().pad_token_id,
        })
    }

    /// The number of samples to score.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The number of samples scored so far.
    pub fn done(&self) -> usize {
        self.done
    }

    fn scores(&self, batch: &Batch) -> Result<Vec<ByteScore>> {
        let given = model_batch(batch);
        let losses = to_host(&self.model.losses(&given)?)?;
        let weights = given.loss_mask;
        let ids = batch.labels.as_ref().unwrap_or(&batch.ids);
        let mut scores = Vec::with_capacity(ids.len());
        for (index, (id, nats)) in ids.iter().zip(losses).enumerate() {
            if *id == self.pad {
                continue;
            }
            let (row, position) = (index / batch.len, index % batch.len);
            scores.push(ByteScore {
                offset: batch.samples[row] as u64 * batch.len as u64 + position as u64,
                id: *id,
                position,
                nats: f64::from(nats),
                weight: weights.as_ref().map_or(1.0, |weights| f64::from(weights[index])),
            });
        }
        Ok(scores)
    }
}

impl Iterator for SplitScores<'_> {
    type Item = Result<Vec<ByteScore>>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.loader.next()?.and_then(|batch| {
            let scores = self.scores(&batch)?;
            self.done += batch.rows;
            Ok(scores)
        }))
    }
}

/// The first samples of a data set.
struct First {
    dataset: Arc<dyn Dataset>,
    samples: usize,
}

impl Dataset for First {
    fn len(&self, epoch: usize) -> usize {
        self.dataset.len(epoch).min(self.samples)
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        self.dataset.sample(index, epoch)
    }

    fn bytes(&self) -> u64 {
        self.dataset.bytes()
    }

    fn describe(&self) -> String {
        self.dataset.describe()
    }

    fn is_costly(&self) -> bool {
        self.dataset.is_costly()
    }
}
