//! How data is split: by the names of folders or files, else by position.
//!
//! **By name.** A folder with a subfolder `train` and one for validation or test is split by its
//! subfolders; other entries are ignored. A folder of files is split by their names if every name
//! contains the word of exactly one split. The words, in any case:
//!
//! | split | words |
//! |---|---|
//! | train | `train`, `training` |
//! | validation | `validation`, `valid`, `val`, `dev` |
//! | test | `test`, `testing` |
//!
//! **By position.** Of T bytes or files the last H = ⌊held_out · T⌋ are held out; the first ⌈H/2⌉
//! of them are the validation split, the rest the test split.
//!
//! ```
//! use mblm::data::{Split, splits};
//!
//! let share = splits::held_out_share(Some(0.3))?;
//! let of = |split| splits::split_by_position(10, share, split);
//! assert_eq!((of(Split::Train), of(Split::Validation), of(Split::Test)), (0..7, 7..9, 9..10));
//! # Ok::<(), mblm::Error>(())
//! ```

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::dataset::Split;
use crate::{Error, Result};

/// The default share held out for validation and test.
pub const DEFAULT_HELD_OUT: f64 = 0.05;

/// Returns the share held out for validation and test: `held_out`, or [`DEFAULT_HELD_OUT`].
///
/// # Errors
/// A share below 0, or of 1 and more.
pub fn held_out_share(held_out: Option<f64>) -> Result<f64> {
    let held_out = held_out.unwrap_or(DEFAULT_HELD_OUT);
    match (0.0..1.0).contains(&held_out) {
        true => Ok(held_out),
        false => Err(Error::config(format!(
            "dataset_args: held_out is {held_out}: expected the share kept for validation and test, 0 or more and below 1"
        ))),
    }
}

/// Fails if a share is given for a folder that is split by name; `validation` are that split's
/// paths.
///
/// # Errors
/// A share that is given.
pub fn refuse_held_out(held_out: Option<f64>, dir: &Path, validation: &[PathBuf]) -> Result<()> {
    match (held_out, validation) {
        (Some(_), [validation, ..]) => Err(Error::config(format!(
            "dataset_args: held_out splits data without splits of its own, but {} has the splits train and {}; remove \
             held_out or those splits",
            dir.display(),
            validation.file_name().unwrap_or_default().display()
        ))),
        _ => Ok(()),
    }
}

/// The words that mark a folder or file as a split.
const WORDS: [(&str, Split); 8] = [
    ("train", Split::Train),
    ("training", Split::Train),
    ("validation", Split::Validation),
    ("valid", Split::Validation),
    ("val", Split::Validation),
    ("dev", Split::Validation),
    ("test", Split::Test),
    ("testing", Split::Test),
];

/// The entries of each split of a folder that is split by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedSplits {
    train: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    test: Vec<PathBuf>,
}

impl NamedSplits {
    /// Returns the folders or files of a split in name order; none if there is no such split.
    pub fn of(&self, split: Split) -> &[PathBuf] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }

    fn add(&mut self, split: Split, path: PathBuf) {
        match split {
            Split::Train => self.train.push(path),
            Split::Validation => self.validation.push(path),
            Split::Test => self.test.push(path),
        }
    }

    /// Returns whether there is a split beside `train`.
    fn is_split(&self) -> bool {
        !self.train.is_empty() && (!self.validation.is_empty() || !self.test.is_empty())
    }
}

/// Returns the splits of a folder by the names of its entries; `None` if they mark no splits.
///
/// # Errors
/// A folder that cannot be listed, two folders for one split, or train and test without validation.
pub fn named_splits(dir: &Path) -> Result<Option<NamedSplits>> {
    if let Some(folders) = named_folders(dir)? {
        return Ok(Some(folders));
    }
    let (mut named, mut others) = (NamedSplits::default(), false);
    for path in entries(dir)? {
        match word_in(&path) {
            Some(split) if path.is_file() => named.add(split, path),
            _ => others = true,
        }
    }
    if others || !named.is_split() {
        return Ok(None);
    }
    check_validation(dir, &named)?;
    Ok(Some(named))
}

/// Returns the splits of a folder by the names of its subfolders; `None` if they mark no splits.
///
/// # Errors
/// As [`named_splits`].
pub fn named_folders(dir: &Path) -> Result<Option<NamedSplits>> {
    let (mut named, mut others) = (NamedSplits::default(), 0);
    for path in entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        match WORDS.iter().find(|(word, _)| *word == name) {
            Some((_, split)) if path.is_dir() => named.add(*split, path),
            _ => others += 1,
        }
    }
    if !named.is_split() {
        return Ok(None);
    }
    for split in [Split::Train, Split::Validation, Split::Test] {
        if let [first, second, ..] = named.of(split) {
            return Err(Error::file(
                second,
                format!(
                    "expected one folder of the {split} split, found {} beside {}; remove or rename one of them",
                    second.file_name().unwrap_or_default().display(),
                    first.file_name().unwrap_or_default().display()
                ),
            ));
        }
    }
    check_validation(dir, &named)?;
    if others > 0 {
        tracing::info!(
            "{}: {others} entries beside the folders of the splits are ignored",
            dir.display()
        );
    }
    Ok(Some(named))
}

/// Fails without a validation split: the bytes to hold out beside a test split would be a guess.
fn check_validation(dir: &Path, named: &NamedSplits) -> Result<()> {
    match (named.validation.is_empty(), named.train.first()) {
        (true, Some(train)) => Err(Error::file(
            dir,
            format!(
                "has the splits train and test but no validation split: expected one named validation, valid, val or \
                 dev; or set io.dataset_dir to {}, of which a share is then held out",
                train.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// Returns the visible entries of a folder in name order; none for a file or a missing path.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| Error::file(dir, error))? {
        let entry = entry.map_err(|error| Error::file(dir, error))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the split whose word is in a file's name; `None` for no word or words of two splits.
fn word_in(path: &Path) -> Option<Split> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let words = name.split(|letter: char| !letter.is_ascii_alphabetic());
    let mut found = words.filter_map(|part| WORDS.iter().find(|(word, _)| *word == part).map(|(_, split)| *split));
    let first = found.next()?;
    found.all(|split| split == first).then_some(first)
}

/// Returns the range of `total` bytes or files of a split if the share `held_out` is held out.
pub fn split_by_position(total: u64, held_out: f64, split: Split) -> Range<u64> {
    // exact below 2^53 bytes; never above the total, since held_out < 1
    let held = ((total as f64 * held_out) as u64).min(total);
    let validation = total - held;
    let test = validation + held.div_ceil(2);
    match split {
        Split::Train => 0..validation,
        Split::Validation => validation..test,
        Split::Test => test..total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the names of each split's entries in a folder with these files.
    fn named(files: &[&str]) -> Result<Option<[Vec<String>; 3]>> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        let found = named_splits(folder.path())?;
        Ok(found.map(|found| {
            [Split::Train, Split::Validation, Split::Test].map(|split| {
                let names = found
                    .of(split)
                    .iter()
                    .map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
                names.collect()
            })
        }))
    }

    fn names(train: &[&str], validation: &[&str], test: &[&str]) -> Option<[Vec<String>; 3]> {
        Some([train, validation, test].map(|names| names.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn folders_say_what_split_they_are() {
        for word in ["validation", "valid", "val", "dev", "Val", "DEV"] {
            let other = format!("{word}/b");
            assert_eq!(
                named(&["train/a", &other, "test/c"]).unwrap(),
                names(&["train"], &[word], &["test"])
            );
            assert_eq!(
                named(&["train/a", &other, "README"]).unwrap(),
                names(&["train"], &[word], &[])
            );
        }
        assert_eq!(named(&["a", "b/c"]).unwrap(), None);
        assert_eq!(named(&["train/a"]).unwrap(), None);
        assert_eq!(
            named(&["test/a", "dev/b", "src/c"]).unwrap(),
            None,
            "a project's folders"
        );
        let two = named(&["train/a", "val/b", "valid/c"]).unwrap_err().to_string();
        assert!(two.contains("found valid beside val"), "{two}");
        let none = named(&["train/a", "test/b"]).unwrap_err().to_string();
        assert!(
            none.contains("no validation split") && none.contains("train, of which"),
            "{none}"
        );
    }

    #[test]
    fn files_say_what_split_they_are_where_all_of_them_do() {
        assert_eq!(
            named(&["train.txt", "val.txt"]).unwrap(),
            names(&["train.txt"], &["val.txt"], &[])
        );
        let shards = [
            "c4-train.00000.jsonl.gz",
            "c4-train.00001.jsonl.gz",
            "c4-validation.jsonl.gz",
            "c4_test.jsonl.gz",
        ];
        assert_eq!(
            named(&shards).unwrap(),
            names(&shards[..2], &shards[2..3], &shards[3..])
        );
        assert_eq!(named(&["train.txt", "val.txt", "notes.txt"]).unwrap(), None);
        assert_eq!(named(&["train-of-thought.txt", "trains.txt"]).unwrap(), None);
        assert_eq!(named(&["train.txt", "train-test.txt", "val.txt"]).unwrap(), None);
        assert!(named(&["train.txt", "test.txt"]).is_err());
    }

    proptest! {
        #[test]
        fn splits_by_position_are_neighbours(total in 0u64..1 << 50, held_out in 0.0..1.0) {
            let [train, validation, test] =
                [Split::Train, Split::Validation, Split::Test].map(|split| split_by_position(total, held_out, split));
            prop_assert_eq!((train.start, test.end), (0, total));
            prop_assert_eq!((train.end, validation.end), (validation.start, test.start));
            let (validation, test) = (validation.end - validation.start, test.end - test.start);
            prop_assert!(validation == test || validation == test + 1);
            prop_assert!(((validation + test) as f64 - total as f64 * held_out).abs() <= 1.0);
        }
    }
}
