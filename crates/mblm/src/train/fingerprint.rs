//! The fingerprint of a run's data: its size and the contents of some samples.
//!
//! A state keeps the fingerprint of its run's data. Resuming with other data would move held-out
//! bytes into training, repeat or omit samples, and compare incomparable losses. Names, folders and
//! times of files do not count: data may be copied and moved.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::data::TrainingData;
use crate::checkpoint::hex;
use crate::data::Dataset;
use crate::{Error, Result};

/// The most samples of a split to read.
const MAX_SAMPLES: usize = 32;
/// The most ids of a split to read; one sample may exceed it.
const MAX_IDS: usize = 8 << 20;

/// The fingerprints of the splits that a run uses for training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The training split.
    pub train: SplitFingerprint,
    /// The split that selects the best models.
    pub validation: Option<SplitFingerprint>,
    /// The seed of the samples.
    pub seed: u64,
}

/// The fingerprint of one split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFingerprint {
    /// The size in bytes.
    pub bytes: u64,
    /// Samples of the first epoch.
    pub samples: u64,
    /// The SHA-256 of some samples.
    pub contents: String,
}

impl SplitFingerprint {
    /// Fingerprints samples at even distances.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub fn of(dataset: &dyn Dataset) -> Result<Self> {
        let samples = dataset.len(0);
        let mut hash = Sha256::new();
        let mut ids = 0;
        let count = samples.min(MAX_SAMPLES);
        for place in 0..count {
            let sample = dataset.sample(place * samples / count, 0)?;
            ids += sample.ids.len();
            sample.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
            if ids > MAX_IDS {
                break;
            }
        }
        Ok(Self {
            bytes: dataset.bytes(),
            samples: samples as u64,
            contents: hex(&hash.finalize()),
        })
    }

    /// Describes how the data `now` differ; `None` if they do not.
    fn difference(&self, now: &Self) -> Option<String> {
        if self.bytes != now.bytes {
            return Some(format!("{} bytes when the run began, {} now", self.bytes, now.bytes));
        }
        (self.samples != now.samples || self.contents != now.contents)
            .then(|| "the same size, but different contents".into())
    }
}

impl Fingerprint {
    /// Fingerprints a run's data; `seed` is the seed of its samples.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub fn of(data: &TrainingData, seed: u64) -> Result<Self> {
        Ok(Self {
            train: SplitFingerprint::of(&*data.train)?,
            validation: data.validation.as_deref().map(SplitFingerprint::of).transpose()?,
            seed,
        })
    }

    /// Fails if the data `now` differ; with another seed, only sizes are compared.
    ///
    /// # Errors
    /// Names the split and the difference.
    pub fn check(&self, now: &Self) -> Result<()> {
        let mut pairs = vec![("training", Some(&self.train), Some(&now.train))];
        pairs.push(("validation", self.validation.as_ref(), now.validation.as_ref()));
        for (split, before, now_there) in pairs {
            let difference = match (before, now_there) {
                (Some(before), Some(there)) if self.seed == now.seed => before.difference(there),
                (Some(before), Some(there)) => before.difference(&Self::with_contents_of(there, before)),
                (None, Some(_)) => Some("they did not exist when the run began".into()),
                (Some(_), None) => Some("they no longer exist".into()),
                (None, None) => None,
            };
            if let Some(difference) = difference {
                return Err(Error::input(format!(
                    "the {split} data changed since the run began: {difference}; restore the data, start a new run, or \
                     continue with the changed data by --accept-data-change, which forgets the losses of the best \
                     models so far"
                )));
            }
        }
        Ok(())
    }

    fn with_contents_of(split: &SplitFingerprint, other: &SplitFingerprint) -> SplitFingerprint {
        SplitFingerprint {
            contents: other.contents.clone(),
            ..split.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DatasetArgs, Split};
    use crate::task::TaskRegistry;

    fn fingerprint(text: &str, seed: u64) -> Fingerprint {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let open = |split| {
            TaskRegistry::default()
                .open("bytes", &DatasetArgs::new(file.path(), split, 8))
                .unwrap()
        };
        let data = TrainingData {
            train: open(Split::Train).unwrap(),
            other_workers: Vec::new(),
            validation: open(Split::Validation),
            test: None,
        };
        Fingerprint::of(&data, seed).unwrap()
    }

    #[test]
    fn other_data_are_told_and_the_same_data_elsewhere_are_not() {
        let text = "all that glitters is not gold. ".repeat(40);
        let before = fingerprint(&text, 1);
        assert_eq!(before, fingerprint(&text, 1));
        before.check(&fingerprint(&text, 1)).unwrap();
        let message = |text: &str, seed| before.check(&fingerprint(text, seed)).unwrap_err().to_string();
        let longer = message(&text.repeat(2), 1);
        assert!(
            longer.contains("1178 bytes when the run began, 2356 now") && longer.contains("--accept-data-change"),
            "{longer}"
        );
        assert!(message(&text[..900], 2).contains("bytes when the run began"));
        assert!(message(&text.replace('g', "G"), 1).contains("the same size, but different contents"));
        before.check(&fingerprint(&text.replace('g', "G"), 2)).unwrap();
    }
}
