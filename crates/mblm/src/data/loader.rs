//! Batches, prepared on another thread while the model computes.
//!
//! The order within an epoch is sequential or a permutation given by (seed, epoch). The batches
//! after a [`Position`] therefore do not depend on the past: a resumed run sees the batches of an
//! uninterrupted one. Training drops the last partial batch of an epoch and runs epochs without
//! end; evaluation keeps it and runs one epoch.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use rayon::prelude::*;

use super::batch::{Batch, Position};
use super::dataset::{Dataset, Sample};
use super::permutation::Permutation;
use crate::{Error, Result};

/// The number of batches kept ready for the model.
const AHEAD: usize = 3;
/// Training fails after this many consecutive epochs without a full batch.
const EMPTY_EPOCHS: usize = 1 << 24;

/// The order of the samples of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// 0, 1, 2, …
    Sequential,
    /// Another permutation each epoch.
    Shuffled {
        /// The seed of the permutations.
        seed: u64,
    },
}

/// The options of a [`Loader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples per batch.
    pub batch_size: usize,
    /// The order of the samples.
    pub order: Order,
    /// Whether the last batch of an epoch may have fewer samples.
    pub keep_partial: bool,
    /// The position of the first batch.
    pub start: Position,
    /// The epoch to stop before; `None` never stops.
    pub end_epoch: Option<usize>,
}

impl LoaderOptions {
    /// Returns the options of training: epoch after epoch from `start` on, without partial batches.
    pub fn training(batch_size: usize, order: Order, start: Position) -> Self {
        Self {
            batch_size,
            order,
            keep_partial: false,
            start,
            end_epoch: None,
        }
    }

    /// Returns the options of evaluation: every sample of epoch 0 once.
    pub fn evaluation(batch_size: usize, order: Order) -> Self {
        Self {
            batch_size,
            order,
            keep_partial: true,
            start: Position::default(),
            end_epoch: Some(1),
        }
    }

    /// Fails if there is no batch to deliver.
    ///
    /// # Errors
    /// A batch size of 0, a data set whose epoch 0 has no batch.
    pub fn check(&self, dataset: &dyn Dataset) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::config("batch_size is 0: expected at least one sample per batch"));
        }
        match self.batches(dataset, 0) {
            0 => Err(Error::input(format!(
                "{}: {} samples do not fill one batch of {}; give more data or lower batch_size",
                dataset.describe(),
                dataset.len(0),
                self.batch_size
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the number of batches of an epoch.
    pub fn batches(&self, dataset: &dyn Dataset, epoch: usize) -> usize {
        let samples = dataset.len(epoch);
        match self.keep_partial {
            _ if self.batch_size == 0 => 0,
            true => samples.div_ceil(self.batch_size),
            false => samples / self.batch_size,
        }
    }
}

/// The batches in order, prepared on the calling thread.
struct Batches {
    dataset: Arc<dyn Dataset>,
    options: LoaderOptions,
    position: Position,
    stop: Arc<AtomicBool>,
}

impl Batches {
    /// Moves on to the next epoch with a batch if this one is done; returns `false` at the end.
    fn seek(&mut self) -> Result<bool> {
        for _ in 0..EMPTY_EPOCHS {
            let epoch = self.position.epoch;
            if self.options.end_epoch.is_some_and(|end| epoch >= end) || self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if self.position.batch < self.options.batches(&*self.dataset, epoch) {
                return Ok(true);
            }
            self.position = Position {
                epoch: epoch + 1,
                batch: 0,
            };
        }
        Err(Error::input(format!(
            "{}: no full batch of {} samples in any of {EMPTY_EPOCHS} epochs; lower batch_size",
            self.dataset.describe(),
            self.options.batch_size
        )))
    }

    fn indices(&self, places: Range<usize>) -> Vec<usize> {
        match self.options.order {
            Order::Sequential => places.collect(),
            Order::Shuffled { seed } => {
                let epoch = self.position.epoch;
                let permutation = Permutation::new(self.dataset.len(epoch) as u64, seed, epoch as u64);
                // a value is below the length, a usize, so it fits
                places.map(|place| permutation.at(place as u64) as usize).collect()
            }
        }
    }

    /// Returns the samples in order; `None` once the loader is dropped. Of several errors it
    /// returns the first in order.
    ///
    /// Worker threads share costly samples, which they prepare while they wait for other work.
    fn samples(&self, indices: &[usize], epoch: usize) -> Result<Option<Vec<Sample>>> {
        let sample = |&index: &usize| match self.stop.load(Ordering::Relaxed) {
            true => None,
            false => Some(self.dataset.sample(index, epoch)),
        };
        if self.dataset.is_costly() {
            let samples: Vec<Option<Result<Sample>>> = indices.par_iter().map(sample).collect();
            samples.into_iter().map(Option::transpose).collect()
        } else {
            indices.iter().map(|index| sample(index).transpose()).collect()
        }
    }

    /// Returns the next batch; `None` at the end or once the loader is dropped.
    fn prepare(&mut self) -> Result<Option<Batch>> {
        if !self.seek()? {
            return Ok(None);
        }
        let position = self.position;
        let first = position.batch * self.options.batch_size;
        let last = first
            .saturating_add(self.options.batch_size)
            .min(self.dataset.len(position.epoch));
        let indices = self.indices(first..last);
        let Some(samples) = self.samples(&indices, position.epoch)? else {
            return Ok(None);
        };
        self.position.batch += 1;
        let next = match self.position.batch < self.options.batches(&*self.dataset, position.epoch) {
            true => self.position,
            false => Position {
                epoch: position.epoch + 1,
                batch: 0,
            },
        };
        Batch::stack(&samples, indices, position, next).map(Some)
    }
}

/// An iterator over batches, which a thread of its own prepares a few ahead. It ends after an
/// error.
///
/// Dropping it stops the thread, at the latest after the sample in progress.
pub struct Loader {
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Starts preparing batches.
    ///
    /// # Errors
    /// A batch size of 0, a data set whose epoch 0 has no batch, or a failure to start the thread.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        options.check(&*dataset)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut source = Batches {
            dataset,
            options,
            position: options.start,
            stop: stop.clone(),
        };
        let (sender, batches) = sync_channel(AHEAD);
        let prepare_all = move || {
            while let Some(batch) = source.prepare().transpose() {
                let failed = batch.is_err();
                // the loader was dropped
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("data".into())
            .spawn(prepare_all)
            .map_err(|error| Error::input(format!("cannot start the thread that reads the data: {error}")))?;
        Ok(Self {
            batches: Some(batches),
            thread: Some(thread),
            stop,
        })
    }

    /// Joins the thread, which has ended or is about to; fails if it panicked.
    fn join(&mut self) -> Result<()> {
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        ended.map_err(|panic| {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Error::input(format!("the data set panicked: {message}"))
        })
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.batches.as_ref()?.recv() {
            Ok(batch) => {
                if batch.is_err() {
                    self.batches = None;
                }
                Some(batch)
            }
            Err(_) => {
                self.batches = None;
                self.join().err().map(Err)
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // without a receiver a blocked send fails at once
        self.batches = None;
        // a panic has already been printed
        self.join().ok();
    }
}

#[cfg(test)]
mod tests;
