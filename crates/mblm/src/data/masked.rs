//! Masked-byte training: each id of a sample becomes `mask_token_id` with probability
//! `masking_proba`, independently.
//!
//! The labels are the original ids, and the loss is taken at the masked positions. The masked
//! positions depend on (seed, worker, epoch, index) alone; a short sample may have none.

use std::path::PathBuf;
use std::sync::Arc;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::dataset::{Dataset, DatasetArgs, Masking, Sample};
use super::hash::key;
use crate::{Error, Result};

/// A data set that masks the samples of another.
pub struct Masked {
    inner: Arc<dyn Dataset>,
    masking: Masking,
    seed: u64,
    worker: u64,
}

impl Masked {
    /// Masks the samples of `inner` as `args.masking` says.
    ///
    /// # Errors
    /// No masking, a probability outside 0…1, a mask id outside the vocabulary or equal to padding.
    pub fn new(inner: Arc<dyn Dataset>, args: &DatasetArgs) -> Result<Self> {
        let masking = args.masking.ok_or_else(|| {
            Error::config("masked-byte training needs params.mask_token_id and train.masking_proba; found neither")
        })?;
        if !(0.0..=1.0).contains(&masking.masking_proba) {
            return Err(Error::config(format!(
                "train.masking_proba is {}: expected a probability, 0 to 1",
                masking.masking_proba
            )));
        }
        if masking.mask_token_id as usize >= args.num_tokens {
            return Err(Error::config(format!(
                "params.mask_token_id is {}: expected an id below num_tokens, which is {}",
                masking.mask_token_id, args.num_tokens
            )));
        }
        if masking.mask_token_id == args.pad_token_id {
            return Err(Error::config(format!(
                "params.mask_token_id and pad_token_id are both {}: give them different ids",
                args.pad_token_id
            )));
        }
        Ok(Self {
            inner,
            masking,
            seed: args.seed,
            worker: args.worker as u64,
        })
    }
}

impl Dataset for Masked {
    fn len(&self, epoch: usize) -> usize {
        self.inner.len(epoch)
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        let mut sample = self.inner.sample(index, epoch)?;
        let seed = key(&[self.seed, self.worker, epoch as u64, index as u64]);
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        // 53 random bits: uniform in [0, 1), so that probability 0 masks nothing and 1 everything
        let mut uniform = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let masked: Vec<bool> = (0..sample.ids.len())
            .map(|_| uniform() < self.masking.masking_proba)
            .collect();
        sample.labels = Some(sample.ids.clone());
        for (id, &masked) in sample.ids.iter_mut().zip(&masked) {
            if masked {
                *id = self.masking.mask_token_id;
            }
        }
        sample.masked = Some(masked);
        Ok(sample)
    }

    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }

    fn describe(&self) -> String {
        format!(
            "{}, each byte masked with probability {}",
            self.inner.describe(),
            self.masking.masking_proba
        )
    }

    fn is_costly(&self) -> bool {
        self.inner.is_costly()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{SequenceOptions, Sequential, Split};

    fn masked(proba: f64, change: impl FnOnce(&mut DatasetArgs)) -> Result<Masked> {
        let mut args = DatasetArgs {
            num_tokens: 258,
            pad_token_id: 256,
            masking: Some(Masking {
                mask_token_id: 257,
                masking_proba: proba,
            }),
            ..DatasetArgs::new("", Split::Train, 1000)
        };
        change(&mut args);
        let bytes: Vec<u8> = (0..10_000u32).map(|index| (index % 251) as u8).collect();
        let inner = Sequential::new(Arc::new(bytes), 0..10_000, &args, SequenceOptions::default(), "numbers")?;
        Masked::new(Arc::new(inner), &args)
    }

    #[test]
    fn masks_a_share_of_the_bytes_and_keeps_them_as_labels() {
        let set = masked(0.15, |_| ()).unwrap();
        let mut count = 0;
        for index in 0..set.len(0) {
            let sample = set.sample(index, 0).unwrap();
            let (labels, masked) = (sample.labels.unwrap(), sample.masked.unwrap());
            assert_eq!(labels, set.inner.sample(index, 0).unwrap().ids);
            for position in 0..1000 {
                let expected = if masked[position] { 257 } else { labels[position] };
                assert_eq!(sample.ids[position], expected);
            }
            count += masked.iter().filter(|&&masked| masked).count();
        }
        // 10,000 draws at 0.15: 1500 with a standard deviation of 36
        assert!((1320..1680).contains(&count), "{count}");
    }

    #[test]
    fn masks_depend_on_seed_worker_epoch_and_index_only() {
        let mask = |seed, worker, epoch, index| {
            let set = masked(0.5, |args| {
                args.seed = seed;
                args.worker = worker;
                args.workers = 3;
            });
            set.unwrap().sample(index, epoch).unwrap().masked.unwrap()
        };
        let first = mask(1, 0, 0, 0);
        assert_eq!(first, mask(1, 0, 0, 0));
        for other in [mask(2, 0, 0, 0), mask(1, 1, 0, 0), mask(1, 0, 1, 0), mask(1, 0, 0, 1)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn probabilities_zero_and_one_are_exact() {
        let all = |proba| masked(proba, |_| ()).unwrap().sample(0, 0).unwrap().masked.unwrap();
        assert!(all(0.0).iter().all(|masked| !masked));
        assert!(all(1.0).iter().all(|masked| *masked));
    }

    #[test]
    fn wrong_settings_are_named() {
        let message = |proba, change: fn(&mut DatasetArgs)| masked(proba, change).err().unwrap().to_string();
        assert!(message(0.1, |args| args.masking = None).contains("params.mask_token_id"));
        assert!(message(1.5, |_| ()).contains("masking_proba is 1.5"));
        assert!(message(f64::NAN, |_| ()).contains("masking_proba is NaN"));
        assert!(message(0.1, |args| args.num_tokens = 257).contains("mask_token_id is 257"));
        assert!(message(0.1, |args| args.pad_token_id = 257).contains("both 257"));
    }
}
