//! Batches, prepared on another thread while the model computes.
//!
//! The order within an epoch is sequential or a permutation given by (seed, epoch), so the batches after a [`Position`] do not
//! depend on how a run got there: a resumed run sees exactly what an uninterrupted one would have seen. In training the last
//! partial batch of an epoch is dropped and the epochs go on without end; in evaluation it is kept and there is one epoch.

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

/// Batches that wait ready for the model.
const AHEAD: usize = 3;
/// Epochs without a full batch in a row after which a training gives up.
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

/// What a [`Loader`] delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples per batch.
    pub batch_size: usize,
    /// The order of the samples.
    pub order: Order,
    /// Whether the last batch of an epoch may have fewer samples.
    pub keep_partial: bool,
    /// The first batch.
    pub start: Position,
    /// The epoch to stop before; `None` goes on forever.
    pub end_epoch: Option<usize>,
}

impl LoaderOptions {
    /// Epoch after epoch from `start` on, without partial batches.
    pub fn training(batch_size: usize, order: Order, start: Position) -> Self {
        Self {
            batch_size,
            order,
            keep_partial: false,
            start,
            end_epoch: None,
        }
    }

    /// Every sample of epoch 0 once.
    pub fn evaluation(batch_size: usize, order: Order) -> Self {
        Self {
            batch_size,
            order,
            keep_partial: true,
            start: Position::default(),
            end_epoch: Some(1),
        }
    }

    /// Batches of an epoch.
    pub fn batches(&self, dataset: &dyn Dataset, epoch: usize) -> usize {
        let samples = dataset.len(epoch);
        match self.keep_partial {
            _ if self.batch_size == 0 => 0,
            true => samples.div_ceil(self.batch_size),
            false => samples / self.batch_size,
        }
    }
}

/// The batches in order, prepared by whoever asks.
struct Batches {
    dataset: Arc<dyn Dataset>,
    options: LoaderOptions,
    position: Position,
    stop: Arc<AtomicBool>,
}

impl Batches {
    /// Moves to the next epoch that has a batch when this one is through; `false` at the end.
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
                // an image is below the length, which is a usize
                places.map(|place| permutation.at(place as u64) as usize).collect()
            }
        }
    }

    /// The samples in order; `None` when nobody wants them any more. Of several errors it is the first in order.
    ///
    /// Costly ones are shared among the worker threads, which take them while they wait for other work.
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

    /// The next batch; `None` at the end or when nobody wants it any more.
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

/// An iterator over batches that a thread of its own prepares, a few ahead. After an error it ends.
///
/// Dropping it stops the thread, at the latest after the sample it is reading.
pub struct Loader {
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Starts preparing batches.
    ///
    /// # Errors
    /// A batch size of 0, a data set whose epoch 0 has no batch, or no thread to be had.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(Error::config("batch_size is 0: expected at least one sample per batch"));
        }
        if options.batches(&*dataset, 0) == 0 {
            return Err(Error::input(format!(
                "{}: {} samples do not fill one batch of {}; give more data or lower batch_size",
                dataset.describe(),
                dataset.len(0),
                options.batch_size
            )));
        }
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
                // nobody listens any more: the loader was dropped
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

    /// Waits for the thread, which has ended or is about to; an error if it panicked.
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
        // without a receiver a waiting send fails at once
        self.batches = None;
        // a panic that nobody asked about was printed when it happened
        self.join().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DatasetArgs, Sample, SequenceOptions, Sequential, Split};
    use proptest::prelude::*;
    use std::sync::Mutex;

    fn letters(total: u64, sample_len: usize) -> Arc<dyn Dataset> {
        let bytes: Vec<u8> = (0..total).map(|index| (index % 256) as u8).collect();
        let args = DatasetArgs::new("", Split::Train, sample_len);
        Arc::new(Sequential::new(Arc::new(bytes), 0..total, &args, SequenceOptions::default(), "numbers").unwrap())
    }

    fn take(dataset: &Arc<dyn Dataset>, options: LoaderOptions, count: usize) -> Vec<Batch> {
        let loader = Loader::new(dataset.clone(), options).unwrap();
        loader.take(count).map(Result::unwrap).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_resumed_run_continues_exactly(
            total in 60u64..200, sample_len in 1usize..8, batch_size in 1usize..5, done in 0usize..60, seed: Option<u64>
        ) {
            let dataset = letters(total, sample_len);
            let order = seed.map_or(Order::Sequential, |seed| Order::Shuffled { seed });
            let options = LoaderOptions::training(batch_size, order, Position::default());
            let whole = take(&dataset, options, done + 20);
            let start = if done == 0 { Position::default() } else { whole[done - 1].next };
            prop_assert_eq!(start, whole[done].position);
            let rest = take(&dataset, LoaderOptions { start, ..options }, 20);
            prop_assert_eq!(&rest, &whole[done..]);
        }

        #[test]
        fn an_epoch_has_every_sample_once(total in 20u64..200, batch_size in 1usize..9, seed: Option<u64>) {
            let dataset = letters(total, 3);
            let order = seed.map_or(Order::Sequential, |seed| Order::Shuffled { seed });
            let batches = take(&dataset, LoaderOptions::evaluation(batch_size, order), usize::MAX);
            let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.samples.clone()).collect();
            prop_assert_eq!(batches.len(), dataset.len(0).div_ceil(batch_size));
            for batch in &batches {
                for (row, &index) in batch.samples.iter().enumerate() {
                    let expected = dataset.sample(index, 0).unwrap().ids;
                    prop_assert_eq!(&batch.ids[row * batch.len..][..batch.len], &expected);
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..dataset.len(0)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn training_drops_the_partial_batch_and_evaluation_keeps_it() {
        // 22 bytes: 7 samples of 3 in epochs 0 and 1, 6 in epoch 2
        let dataset = letters(22, 3);
        let training = LoaderOptions::training(2, Order::Sequential, Position::default());
        let found: Vec<_> = take(&dataset, training, 7)
            .iter()
            .map(|batch| (batch.position.epoch, batch.position.batch, batch.rows, batch.ids[0]))
            .collect();
        let expected = [
            (0, 0, 2, 0),
            (0, 1, 2, 6),
            (0, 2, 2, 12),
            (1, 0, 2, 1),
            (1, 1, 2, 7),
            (1, 2, 2, 13),
            (2, 0, 2, 2),
        ];
        assert_eq!(found, expected);
        let evaluation = take(&dataset, LoaderOptions::evaluation(2, Order::Sequential), usize::MAX);
        assert_eq!(
            evaluation.iter().map(|batch| batch.rows).collect::<Vec<_>>(),
            [2, 2, 2, 1]
        );
        assert_eq!(evaluation[3].ids, [18, 19, 20]);
    }

    #[test]
    fn shuffled_epochs_differ() {
        let dataset = letters(240, 3);
        let options = LoaderOptions::training(70, Order::Shuffled { seed: 5 }, Position::default());
        let batches = take(&dataset, options, 2);
        assert_eq!((batches[0].position.epoch, batches[1].position.epoch), (0, 1));
        assert_ne!(batches[0].samples, batches[1].samples);
        assert_ne!(batches[0].samples, (0..70).collect::<Vec<_>>());
    }

    #[test]
    fn epochs_without_a_full_batch_are_skipped() {
        // 8 bytes: one batch of 2 samples in epoch 0, none in epochs 1, 2 and 3
        let dataset = letters(8, 4);
        let options = LoaderOptions::training(2, Order::Sequential, Position::default());
        let epochs: Vec<_> = take(&dataset, options, 3)
            .iter()
            .map(|batch| batch.position.epoch)
            .collect();
        assert_eq!(epochs, [0, 4, 8]);
        let message = Loader::new(
            dataset.clone(),
            LoaderOptions {
                batch_size: 3,
                ..options
            },
        )
        .err()
        .unwrap();
        assert!(
            message.to_string().contains("2 samples do not fill one batch of 3"),
            "{message}"
        );
        let message = Loader::new(
            dataset,
            LoaderOptions {
                batch_size: 0,
                ..options
            },
        )
        .err()
        .unwrap();
        assert!(message.to_string().contains("batch_size is 0"), "{message}");
    }

    /// Endless samples from a function.
    struct Custom<F>(F);

    impl<F: Fn(usize) -> Result<Sample> + Send + Sync> Dataset for Custom<F> {
        fn len(&self, _: usize) -> usize {
            usize::MAX
        }

        fn sample(&self, index: usize, _: usize) -> Result<Sample> {
            (self.0)(index)
        }

        fn bytes(&self) -> u64 {
            0
        }

        fn describe(&self) -> String {
            "custom".into()
        }
    }

    fn custom(sample: impl Fn(usize) -> Result<Sample> + Send + Sync + 'static) -> Loader {
        let options = LoaderOptions::training(2, Order::Sequential, Position::default());
        Loader::new(Arc::new(Custom(sample)), options).unwrap()
    }

    fn ids(len: usize) -> Sample {
        Sample {
            ids: vec![0; len],
            ..Sample::default()
        }
    }

    #[test]
    fn errors_of_the_data_set_end_the_batches() {
        let fail_at_5 = |index| {
            if index == 5 {
                Err(Error::input("broken"))
            } else {
                Ok(ids(3))
            }
        };
        let mut loader = custom(fail_at_5);
        assert!(loader.next().unwrap().is_ok());
        assert!(loader.next().unwrap().is_ok());
        assert_eq!(loader.next().unwrap().unwrap_err().to_string(), "broken");
        assert!(loader.next().is_none());
    }

    #[test]
    fn a_panic_of_the_data_set_is_an_error() {
        let mut loader = custom(|index| {
            assert!(index < 3, "index {index}");
            Ok(ids(3))
        });
        assert!(loader.next().unwrap().is_ok());
        let message = loader.next().unwrap().unwrap_err().to_string();
        assert_eq!(message, "the data set panicked: index 3");
        assert!(loader.next().is_none());
    }

    #[test]
    fn samples_of_several_shapes_are_errors() {
        let message = |second: Sample| {
            let samples = Mutex::new(vec![second, ids(3)]);
            let mut loader = custom(move |_| Ok(samples.lock().unwrap().pop().unwrap()));
            loader.next().unwrap().unwrap_err().to_string()
        };
        assert_eq!(
            message(ids(4)),
            "epoch 0, sample 1: expected 3 elements in ids, found 4"
        );
        let weighted = Sample {
            loss_weights: Some(vec![1.0; 3]),
            ..ids(3)
        };
        assert!(message(weighted).contains("expected loss_weights in all samples"));
    }

    #[test]
    fn every_field_is_stacked() {
        let batch = custom(|index| {
            Ok(Sample {
                ids: vec![index as u32; 2],
                loss_weights: Some(vec![index as f32, 0.5]),
                labels: Some(vec![7, index as u32]),
                masked: Some(vec![true, index == 1]),
            })
        })
        .next()
        .unwrap()
        .unwrap();
        assert_eq!((batch.rows, batch.len, batch.ids), (2, 2, vec![0, 0, 1, 1]));
        assert_eq!(batch.loss_weights.unwrap(), [0.0, 0.5, 1.0, 0.5]);
        assert_eq!(batch.labels.unwrap(), [7, 0, 7, 1]);
        assert_eq!(batch.masked.unwrap(), [true, false, true, true]);
    }

    #[test]
    fn dropping_stops_the_thread() {
        let dataset: Arc<dyn Dataset> = Arc::new(Custom(|_| Ok(ids(3))));
        let options = LoaderOptions::training(2, Order::Sequential, Position::default());
        let mut loader = Loader::new(dataset.clone(), options).unwrap();
        loader.next().unwrap().unwrap();
        // the drop joins the thread, which gives back its share of the data set
        drop(loader);
        assert_eq!(Arc::strong_count(&dataset), 1);
    }
}
