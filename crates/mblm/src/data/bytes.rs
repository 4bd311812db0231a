//! Data set `bytes`: any file or folder.
//!
//! The files of a folder form one sequence in name order, with subfolders and without hidden files.
//! The option `separator` puts an id between consecutive files; `seeded_starts` draws the offset of
//! each epoch's samples. Files compressed with gzip or zstd are decompressed unless `raw` is set;
//! other archives are refused. With `text_field` the files are JSON Lines and yield the texts in
//! that field; `skip_bad_lines` skips lines without one.
//!
//! **Splits.** Folders or files whose names mark them as splits are the splits
//! (`splits::named_splits`). Other data is split by position: of T bytes with the option `held_out`
//! = s (default 0.05), the last H = ⌊s·T⌋ bytes are held out. The first ⌈H/2⌉ of them are the
//! validation split, the rest the test split. With H = 0 neither exists. The option `validation`
//! names a file or folder that is the validation split instead; the data without it is learned
//! from.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::Deserialize;

use super::dataset::{Dataset, DatasetArgs, Split};
use super::files::Files;
use super::reading::Reading;
use super::sequential::{SequenceOptions, Sequential};
use super::source::ByteSource;
use super::splits::{DEFAULT_HELD_OUT, held_out_share, named_splits, refuse_held_out, split_by_position};
use super::walk::regular_files;
use crate::{Error, Result};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    held_out: Option<f64>,
    validation: Option<PathBuf>,
    text_field: Option<String>,
    skip_bad_lines: bool,
    raw: bool,
    separator: Option<u32>,
    seeded_starts: bool,
}

/// Opens splits. Splits by position share their files, so compressed data is decoded once.
#[derive(Default)]
pub struct Opener {
    latest: Mutex<Option<(PathBuf, Reading, Weak<Files>)>>,
}

/// The bytes of one split.
pub struct Part {
    /// The files, concatenated.
    pub files: Arc<Files>,
    /// The byte range of the split within the files.
    pub bytes: Range<u64>,
}

impl Opener {
    /// Opens the split that `args` ask for; `None` if the data has no such split.
    pub(crate) fn open(&self, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
        let Options {
            held_out,
            validation,
            text_field,
            skip_bad_lines,
            raw,
            separator,
            seeded_starts,
        } = args.parse_options()?;
        let reading = Reading::from_options(text_field, skip_bad_lines, raw)?;
        let sequence = SequenceOptions {
            separator,
            seeded_starts,
        };
        let name = format!("bytes ({} split of {})", args.split, args.dir.display());
        let part = match validation {
            Some(validation) => beside(args, held_out, &validation, &reading),
            None => self.part(args, held_out, reading),
        };
        let Some(Part { files, bytes }) = part? else {
            return Ok(None);
        };
        let set = Sequential::new(files, bytes, args, sequence, &name)
            .map_err(|error| too_short(error, args.split, held_out))?;
        Ok(Some(Arc::new(set)))
    }

    /// Returns the bytes of the split that `args` ask for, ignoring its options; `None` if the data
    /// has no such split.
    ///
    /// # Errors
    /// An invalid share of held-out bytes; files that are missing or cannot be read or decoded.
    pub fn part(&self, args: &DatasetArgs, held_out: Option<f64>, reading: Reading) -> Result<Option<Part>> {
        if let Some(named) = named_splits(&args.dir)? {
            let entries = named.of(args.split);
            refuse_held_out(held_out, &args.dir, named.of(Split::Validation))?;
            if entries.is_empty() {
                return Ok(None);
            }
            let mut paths = Vec::new();
            for entry in entries {
                paths.extend(regular_files(entry)?);
            }
            let files = Arc::new(Files::open(&paths, &reading, args.on_opening.clone())?);
            let bytes = 0..files.len();
            return Ok(Some(Part { files, bytes }));
        }
        let held_out = held_out_share(held_out)?;
        let files = self.whole(args, reading)?;
        let bytes = split_by_position(files.len(), held_out, args.split);
        Ok(match bytes.is_empty() && args.split != Split::Train {
            true => None,
            false => Some(Part { files, bytes }),
        })
    }

    /// Returns all files of the path; the object is shared while another split still holds it.
    fn whole(&self, args: &DatasetArgs, reading: Reading) -> Result<Arc<Files>> {
        // A panic cannot leave the value half-written, so a poisoned lock is safe to use.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((dir, earlier, files)) = &*latest
            && *dir == args.dir
            && *earlier == reading
            && let Some(files) = files.upgrade()
        {
            return Ok(files);
        }
        let paths = regular_files(&args.dir)?;
        let files = Arc::new(Files::open(&paths, &reading, args.on_opening.clone())?);
        *latest = Some((args.dir.clone(), reading, Arc::downgrade(&files)));
        Ok(files)
    }
}

/// Returns the bytes of a split if `validation` is the validation data: the rest of the data is the
/// training split, and there is no test split.
fn beside(args: &DatasetArgs, held_out: Option<f64>, validation: &Path, reading: &Reading) -> Result<Option<Part>> {
    if held_out.is_some() {
        return Err(Error::config(
            "dataset_args: validation and held_out are both set; expected only one of the two: validation names the \
             held-out data, held_out is a share of the data",
        ));
    }
    let mut paths = match args.split {
        Split::Train => regular_files(&args.dir)?,
        Split::Validation => regular_files(validation)?,
        Split::Test => return Ok(None),
    };
    if let (Split::Train, Ok(held)) = (args.split, validation.canonicalize()) {
        paths.retain(|path| path.canonicalize().is_ok_and(|path| !path.starts_with(&held)));
    }
    if paths.is_empty() {
        let message = "expected training data beside the validation data, found none";
        return Err(Error::file(&args.dir, message));
    }
    let files = Arc::new(Files::open(&paths, reading, args.on_opening.clone())?);
    let bytes = 0..files.len();
    Ok(Some(Part { files, bytes }))
}

/// Extends the error of a split shorter than one sample by the advice to raise `held_out`.
pub fn too_short(error: Error, split: Split, held_out: Option<f64>) -> Error {
    match split {
        Split::Train => error,
        _ => Error::input(format!(
            "{error}; or raise held_out in io.dataset_args (it is {}), the share kept for validation and test",
            held_out.unwrap_or(DEFAULT_HELD_OUT)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskRegistry;
    use serde_json::json;

    fn open(dir: &Path, split: Split, options: serde_json::Value) -> Result<Option<Arc<dyn Dataset>>> {
        let args = DatasetArgs {
            options: options.as_object().unwrap().clone(),
            ..DatasetArgs::new(dir, split, 4)
        };
        TaskRegistry::default().open("bytes", &args)
    }

    fn failure(dir: &Path, split: Split, options: serde_json::Value) -> String {
        open(dir, split, options)
            .err()
            .expect("opening should fail")
            .to_string()
    }

    fn first(set: Option<Arc<dyn Dataset>>) -> (u64, Vec<u32>) {
        let set = set.unwrap();
        (set.bytes(), set.sample(0, 0).unwrap().ids)
    }

    #[test]
    fn a_file_is_split_by_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.bin");
        std::fs::write(&path, (0..200).collect::<Vec<u8>>()).unwrap();
        let of = |split, options| first(open(&path, split, options).unwrap());
        assert_eq!(of(Split::Train, json!({})), (190, vec![0, 1, 2, 3]));
        assert_eq!(of(Split::Validation, json!({})), (5, vec![190, 191, 192, 193]));
        assert_eq!(of(Split::Test, json!({})), (5, vec![195, 196, 197, 198]));
        assert_eq!(
            of(Split::Test, json!({"held_out": 0.5})),
            (50, vec![150, 151, 152, 153])
        );
        assert_eq!(of(Split::Train, json!({"held_out": 0})).0, 200);
        assert!(
            open(&path, Split::Validation, json!({"held_out": 0}))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn subfolders_are_splits() {
        let folder = tempfile::tempdir().unwrap();
        for (split, text) in [("train", "train text"), ("validation", "valid text")] {
            std::fs::create_dir(folder.path().join(split)).unwrap();
            std::fs::write(folder.path().join(split).join("a.txt"), text).unwrap();
        }
        let of = |split| open(folder.path(), split, json!({})).unwrap();
        assert_eq!(first(of(Split::Train)).1, [116, 114, 97, 105]);
        assert_eq!(first(of(Split::Validation)), (10, vec![118, 97, 108, 105]));
        assert!(of(Split::Test).is_none());
        let message = failure(folder.path(), Split::Train, json!({"held_out": 0.1}));
        assert!(message.contains("remove held_out"), "{message}");
    }

    #[test]
    fn a_sample_spans_files_with_a_separator_between_them() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a", "ab"), ("b", "c"), ("c", "def")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let args = |len| DatasetArgs {
            num_tokens: 258,
            options: json!({"held_out": 0.0, "separator": 257}).as_object().unwrap().clone(),
            ..DatasetArgs::new(folder.path(), Split::Train, len)
        };
        let set = TaskRegistry::default().open("bytes", &args(8)).unwrap().unwrap();
        assert_eq!(set.sample(0, 0).unwrap().ids, [97, 98, 257, 99, 257, 100, 101, 102]);
        assert!(
            set.describe().contains("6 bytes and 2 separators"),
            "{}",
            set.describe()
        );
        let set = TaskRegistry::default().open("bytes", &args(4)).unwrap().unwrap();
        assert_eq!(set.sample(1, 0).unwrap().ids, [257, 100, 101, 102]);
        assert_eq!(set.sample(0, 1).unwrap().ids, [98, 257, 99, 257]);
    }

    #[test]
    fn splits_of_compressed_data_decode_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.zst");
        std::fs::write(&path, zstd::encode_all(&[65u8; 1000][..], 1).unwrap()).unwrap();
        let opener = Opener::default();
        let args = DatasetArgs::new(&path, Split::Train, 4);
        let train = opener.open(&args).unwrap();
        let files = opener
            .whole(
                &args,
                Reading {
                    decompress: true,
                    ..Reading::default()
                },
            )
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let validation = opener
            .open(&DatasetArgs {
                split: Split::Validation,
                ..args.clone()
            })
            .unwrap();
        assert_eq!(
            (first(train), first(validation)),
            ((950, vec![65; 4]), (25, vec![65; 4]))
        );
        drop(files);
        assert!(opener.open(&args).err().unwrap().to_string().contains("no such file"));
    }

    #[test]
    fn errors_say_what_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(failure(&path, Split::Train, json!({})).contains("no such file or folder"));
        std::fs::write(&path, "").unwrap();
        assert!(failure(&path, Split::Train, json!({})).contains("file: the file is empty"));
        std::fs::write(&path, "abc").unwrap();
        let message = failure(&path, Split::Train, json!({}));
        assert!(message.contains("3 bytes are fewer"), "{message}");
        std::fs::write(&path, [0; 100]).unwrap();
        let message = failure(&path, Split::Validation, json!({}));
        assert!(
            message.contains("3 bytes are fewer") && message.contains("raise held_out"),
            "{message}"
        );
        for held_out in [-0.1, 1.0, 2.0] {
            let message = failure(&path, Split::Train, json!({"held_out": held_out}));
            assert!(message.contains("held_out is"), "{message}");
        }
        let message = failure(&path, Split::Train, json!({"held_oot": 0.1}));
        assert!(
            message.contains("unknown field `held_oot`, expected one of `held_out`"),
            "{message}"
        );
    }
}
