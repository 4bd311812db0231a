//! One long sequence of bytes, cut into samples.
//!
//! Worker w of W owns the w-th of W equal ranges; the remainder is dropped. With L = `sample_len`,
//! sample i of epoch e is the L bytes from range start + i·L + (e mod L): each epoch starts one
//! byte later, so over L epochs every byte is predicted at every position of a sample. A last
//! partial sample is dropped. With seeded starts an epoch's offset is drawn uniformly from the
//! offsets below L that leave a worker at least one sample. A separator id takes one position.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::dataset::{Dataset, DatasetArgs, Sample, Split};
use super::hash::key;
use super::separators::Separators;
use super::source::ByteSource;
use super::special_ids::warn_of_bytes;
use crate::{Error, Result};

/// The ranges of the samples of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    start: u64,
    len: u64,
    sample_len: u64,
    /// The seed of the epochs' offsets; `None`: the offsets advance by one byte.
    seed: Option<u64>,
}

impl Ranges {
    /// Returns the range of `worker` of `workers` within `bytes`.
    ///
    /// # Errors
    /// Invalid arguments, or a worker's range shorter than one sample.
    pub fn new(bytes: Range<u64>, worker: usize, workers: usize, sample_len: usize) -> Result<Self> {
        if worker >= workers || sample_len == 0 {
            return Err(Error::input(format!(
                "worker {worker} of {workers} with samples of {sample_len} bytes: expected a worker below the number of \
                 workers and samples of at least one byte"
            )));
        }
        let total = bytes.end.saturating_sub(bytes.start);
        let (worker, workers, sample_len) = (worker as u64, workers as u64, sample_len as u64);
        let len = total / workers;
        if len < sample_len {
            let needed = sample_len.saturating_mul(workers);
            let shared = if workers > 1 {
                format!(" ({len} for each of {workers} workers)")
            } else {
                String::new()
            };
            return Err(Error::input(format!(
                "{total} bytes{shared} are fewer than one sample needs: input_seq_len is {sample_len}, so at least {needed} \
                 bytes are needed; give more data or lower input_seq_len"
            )));
        }
        Ok(Self {
            start: bytes.start + worker * len,
            len,
            sample_len,
            seed: None,
        })
    }

    /// Draws each epoch's offset from the seed and the epoch.
    pub fn seeded(self, seed: u64) -> Self {
        let seed = Some(seed);
        Self { seed, ..self }
    }

    /// Returns the number of samples of an epoch.
    pub fn samples(&self, epoch: usize) -> usize {
        let count = (self.len - self.shift(epoch)) / self.sample_len;
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Returns the offset of a sample's first byte; `None` beyond the last sample of the epoch.
    pub fn offset(&self, index: usize, epoch: usize) -> Option<u64> {
        (index < self.samples(epoch)).then(|| self.start + index as u64 * self.sample_len + self.shift(epoch))
    }

    /// Returns the shift of an epoch in bytes: below `sample_len`, which is at most `len`.
    fn shift(&self, epoch: usize) -> u64 {
        match self.seed {
            Some(seed) => key(&[seed, epoch as u64]) % self.sample_len.min(self.len - self.sample_len + 1),
            None => epoch as u64 % self.sample_len,
        }
    }
}

/// The options of every data set that is one long sequence (`io.dataset_args`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceOptions {
    /// The id between two files; without one they follow each other directly.
    pub separator: Option<u32>,
    /// Whether each epoch's offset is drawn from the seed instead of advancing by one byte.
    pub seeded_starts: bool,
}

/// The data set of a byte source: every byte is an id.
pub struct Sequential<S> {
    source: Arc<S>,
    separators: Separators,
    ranges: Ranges,
    bytes: Range<u64>,
    sample_len: usize,
    num_tokens: usize,
    description: String,
}

impl<S: ByteSource> Sequential<S> {
    /// Makes the part `bytes` of a source the split that `args` ask for.
    ///
    /// `name` is the name of the data in messages, for example `bytes (train split of data/)`.
    ///
    /// # Errors
    /// Fewer bytes than one sample per worker; a separator outside the vocabulary.
    pub fn new(
        source: Arc<S>,
        bytes: Range<u64>,
        args: &DatasetArgs,
        options: SequenceOptions,
        name: &str,
    ) -> Result<Self> {
        if let Some(id) = options.separator {
            check_separator(id, args)?;
        }
        if args.split == Split::Train {
            warn_of_bytes(&*source, bytes.clone(), args)?;
        }
        let separators = Separators::new(&*source, bytes.clone(), options.separator);
        let mut ranges = Ranges::new(0..separators.len(), args.worker, args.workers, args.sample_len)
            .map_err(|error| Error::input(format!("{name}: {error}")))?;
        if options.seeded_starts {
            ranges = ranges.seeded(args.seed);
        }
        let separated = match separators.count() {
            0 => String::new(),
            count => format!(" and {count} separators"),
        };
        let description = format!(
            "{name}: {} bytes{separated}, worker {} of {} reads {} samples of {} bytes",
            bytes.end - bytes.start,
            args.worker,
            args.workers,
            ranges.samples(0),
            args.sample_len
        );
        Ok(Self {
            source,
            separators,
            ranges,
            bytes,
            sample_len: args.sample_len,
            num_tokens: args.num_tokens,
            description,
        })
    }
}

fn check_separator(id: u32, args: &DatasetArgs) -> Result<()> {
    if id as usize >= args.num_tokens {
        return Err(Error::config(format!(
            "dataset_args: separator is {id}: expected an id below params.num_tokens, which is {}; raise num_tokens by \
             one for a separate id",
            args.num_tokens
        )));
    }
    if id == args.pad_token_id {
        return Err(Error::config(format!(
            "dataset_args: separator and params.pad_token_id are both {id}, but padding does not count in the loss: \
             give them different ids"
        )));
    }
    Ok(())
}

impl<S: ByteSource> Dataset for Sequential<S> {
    fn len(&self, epoch: usize) -> usize {
        self.ranges.samples(epoch)
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        let position = self.ranges.offset(index, epoch).ok_or_else(|| {
            Error::input(format!(
                "sample {index} of epoch {epoch} does not exist: the epoch has {} samples",
                self.ranges.samples(epoch)
            ))
        })?;
        Ok(Sample {
            ids: (self.separators).read(&*self.source, position, self.sample_len, self.num_tokens)?,
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn files(&self) -> Vec<PathBuf> {
        let starts = self.source.starts();
        let first = starts
            .partition_point(|start| *start <= self.bytes.start)
            .saturating_sub(1);
        let later = starts
            .into_iter()
            .skip(first)
            .take_while(|start| *start < self.bytes.end);
        later.map(|start| self.source.locate(start).0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn samples_of_all_workers_are_disjoint_and_leave_little_out(
            start in 0u64..100, total in 1u64..500, workers in 1usize..6, sample_len in 1usize..20, epoch in 0usize..50
        ) {
            prop_assume!(total / workers as u64 >= sample_len as u64);
            let bytes = start..start + total;
            let mut uses = vec![0; total as usize];
            for worker in 0..workers {
                let ranges = Ranges::new(bytes.clone(), worker, workers, sample_len).unwrap();
                for index in 0..ranges.samples(epoch) {
                    let offset = ranges.offset(index, epoch).unwrap();
                    for position in offset..offset + sample_len as u64 {
                        uses[(position - start) as usize] += 1;
                    }
                }
                prop_assert_eq!(ranges.offset(ranges.samples(epoch), epoch), None);
            }
            prop_assert!(uses.iter().all(|&count| count <= 1));
            // left out: the workers' remainder, and less than one sample at both ends of each
            // worker
            let used: usize = uses.iter().sum();
            prop_assert!(used + workers * (2 * sample_len - 1) > total as usize);
        }

        #[test]
        fn each_epoch_starts_one_byte_later(total in 60u64..500, sample_len in 1usize..20, epoch in 0usize..100) {
            let ranges = Ranges::new(7..7 + total, 0, 1, sample_len).unwrap();
            let shift = (epoch % sample_len) as u64;
            prop_assert_eq!(ranges.offset(0, epoch), Some(7 + shift));
            prop_assert_eq!(ranges.offset(1, epoch), Some(7 + shift + sample_len as u64));
            prop_assert_eq!(ranges.samples(epoch) as u64, (total - shift) / sample_len as u64);
        }
    }

    fn opened(source: Vec<u8>, args: &DatasetArgs) -> Result<Sequential<Vec<u8>>> {
        let bytes = 0..source.len() as u64;
        Sequential::new(Arc::new(source), bytes, args, SequenceOptions::default(), "letters")
    }

    #[test]
    fn samples_are_the_bytes_of_the_workers_range() {
        let args = DatasetArgs {
            worker: 1,
            workers: 2,
            ..DatasetArgs::new("", Split::Train, 3)
        };
        let set = opened(b"abcdefghijklmnopqrstu".to_vec(), &args).unwrap();
        let text = |index, epoch| -> String {
            let ids = set.sample(index, epoch).unwrap().ids;
            ids.iter().map(|&id| char::from(id as u8)).collect()
        };
        // 21 bytes for 2 workers: the second reads k…t
        assert_eq!(set.len(0), 3);
        assert_eq!([text(0, 0), text(1, 0), text(2, 0)], ["klm", "nop", "qrs"]);
        assert_eq!([text(0, 1), text(2, 1)], ["lmn", "rst"]);
        assert_eq!(set.len(2), 2);
        assert_eq!([text(0, 2), text(1, 2)], ["mno", "pqr"]);
        assert_eq!(text(0, 3), "klm");
        let message = set.sample(2, 2).unwrap_err().to_string();
        assert_eq!(message, "sample 2 of epoch 2 does not exist: the epoch has 2 samples");
        assert_eq!(
            set.describe(),
            "letters: 21 bytes, worker 1 of 2 reads 3 samples of 3 bytes"
        );
    }

    #[test]
    fn seeded_starts_differ_between_epochs_and_seeds_and_leave_a_sample() {
        let starts = |seed: u64, total: u64| -> Vec<u64> {
            let ranges = Ranges::new(5..5 + total, 0, 1, 10).unwrap().seeded(seed);
            let start = |epoch| ranges.offset(0, epoch).unwrap() - 5;
            (0..200).map(start).collect()
        };
        let drawn = starts(1, 100);
        assert_eq!(drawn, starts(1, 100));
        assert_ne!(drawn, starts(2, 100));
        assert!((0..10).all(|offset| drawn.contains(&offset)) && drawn.iter().all(|start| *start < 10));
        assert!(starts(1, 12).iter().all(|start| *start <= 2));
        assert_eq!(starts(1, 10), [0; 200]);
    }

    #[test]
    fn a_separator_has_to_be_an_id_that_counts() {
        let args = DatasetArgs {
            num_tokens: 258,
            pad_token_id: 256,
            ..DatasetArgs::new("", Split::Train, 4)
        };
        let message = |id| {
            let options = SequenceOptions {
                separator: Some(id),
                ..SequenceOptions::default()
            };
            let set = Sequential::new(Arc::new(vec![1; 10]), 0..10, &args, options, "ones");
            set.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(
            message(258).contains("below params.num_tokens, which is 258"),
            "{}",
            message(258)
        );
        assert!(message(256).contains("pad_token_id are both 256"), "{}", message(256));
        assert_eq!(message(257), "");
    }

    #[test]
    fn too_few_bytes_are_counted_in_the_message() {
        let mut args = DatasetArgs::new("", Split::Train, 10);
        let message = opened(b"abcdefghi".to_vec(), &args).err().unwrap().to_string();
        assert!(message.contains("letters: 9 bytes are fewer"), "{message}");
        assert!(message.contains("at least 10 bytes"), "{message}");
        args.workers = 2;
        let message = opened(vec![0; 19], &args).err().unwrap().to_string();
        assert!(message.contains("(9 for each of 2 workers)"), "{message}");
        assert!(message.contains("at least 20 bytes"), "{message}");
    }

    #[test]
    fn bytes_beyond_the_vocabulary_are_named() {
        let args = DatasetArgs {
            num_tokens: 100,
            ..DatasetArgs::new("", Split::Train, 4)
        };
        let set = opened(vec![1, 2, 3, 99, 5, 6, 100, 8], &args).unwrap();
        assert_eq!(set.sample(0, 0).unwrap().ids, [1, 2, 3, 99]);
        let message = set.sample(1, 0).unwrap_err().to_string();
        assert!(message.contains("byte 100 at offset 6"), "{message}");
        assert!(message.contains("num_tokens is 100"), "{message}");
    }

    #[test]
    fn senseless_ranges_are_errors() {
        assert!(Ranges::new(0..100, 2, 2, 10).is_err());
        assert!(Ranges::new(0..100, 0, 0, 10).is_err());
        assert!(Ranges::new(0..100, 0, 1, 0).is_err());
    }
}
