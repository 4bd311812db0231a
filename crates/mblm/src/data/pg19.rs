//! Data sets `pg19` and `pg19masked`: a folder with `train/`, `validation/` and `test/`, each with
//! text files. The files of a split, decompressed if gzip or zstd, form one sequence in name order.
//!
//! The layout is that of the PG-19 books (Rae et al. 2019, about 11 GB); any folder of that shape
//! works. `pg19masked` masks each byte with probability `train.masking_proba`. `test/` is optional.
//! Options: `separator` and `seeded_starts`, see [`SequenceOptions`].

use std::sync::Arc;

use super::dataset::{Dataset, DatasetArgs, Split};
use super::files::Files;
use super::masked::Masked;
use super::reading::Reading;
use super::sequential::{SequenceOptions, Sequential};
use super::source::ByteSource;
use super::walk::regular_files;
use crate::{Error, Result};

/// Opens the split of `pg19` that `args` ask for; `None` for a missing test split.
pub(crate) fn open(args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
    let options: SequenceOptions = args.parse_options()?;
    let folder = args.dir.join(args.split.name());
    if !folder.is_dir() {
        if args.split == Split::Test && args.dir.is_dir() {
            return Ok(None);
        }
        return Err(Error::file(
            &args.dir,
            format!(
                "expected a folder with train/, validation/ and test/, found no {}/; data set `bytes` takes any file or folder",
                args.split
            ),
        ));
    }
    let reading = Reading {
        decompress: true,
        ..Reading::default()
    };
    let files = Files::open(&regular_files(&folder)?, &reading, args.on_opening.clone())?;
    let bytes = 0..files.len();
    let name = format!(
        "pg19 ({} split of {}, {} files)",
        args.split,
        args.dir.display(),
        files.count()
    );
    Ok(Some(Arc::new(Sequential::new(
        Arc::new(files),
        bytes,
        args,
        options,
        &name,
    )?)))
}

/// Opens the same bytes, masked (`pg19masked`).
pub(crate) fn open_masked(args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
    let Some(plain) = open(args)? else {
        return Ok(None);
    };
    Ok(Some(Arc::new(Masked::new(plain, args)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Masking;
    use crate::task::TaskRegistry;

    fn books() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("train/2.txt", "second."),
            ("train/10.txt", "first. "),
            ("validation/1.txt", "third."),
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_books_of_a_split_are_one_sequence() {
        let folder = books();
        let of = |split, len| TaskRegistry::default().open("pg19", &DatasetArgs::new(folder.path(), split, len));
        let train = of(Split::Train, 14).unwrap().unwrap();
        let ids = train.sample(0, 0).unwrap().ids;
        assert_eq!(ids, b"first. second.".map(u32::from));
        assert!(train.describe().contains("2 files): 14 bytes"), "{}", train.describe());
        assert_eq!(of(Split::Validation, 6).unwrap().unwrap().bytes(), 6);
        assert!(of(Split::Test, 6).unwrap().is_none());
        let message = of(Split::Validation, 7).err().unwrap().to_string();
        assert!(message.contains("at least 7 bytes"), "{message}");
    }

    #[test]
    fn masked_books_have_the_original_bytes_as_labels() {
        let folder = books();
        let args = DatasetArgs {
            num_tokens: 257,
            masking: Some(Masking {
                mask_token_id: 256,
                masking_proba: 1.0,
            }),
            ..DatasetArgs::new(folder.path(), Split::Validation, 6)
        };
        let sample = TaskRegistry::default()
            .open("pg19masked", &args)
            .unwrap()
            .unwrap()
            .sample(0, 0)
            .unwrap();
        assert_eq!(sample.ids, [256; 6]);
        assert_eq!(sample.labels.unwrap(), b"third.".map(u32::from));
        assert_eq!(sample.masked.unwrap(), [true; 6]);
    }

    #[test]
    fn another_layout_and_options_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = DatasetArgs::new(folder.path(), Split::Train, 4);
        let message = open(&args).err().unwrap().to_string();
        assert!(message.contains("found no train/; data set `bytes`"), "{message}");
        args.options.insert("held_out".into(), 0.5.into());
        let message = open(&args).err().unwrap().to_string();
        assert!(message.contains("dataset_args: unknown field `held_out`"), "{message}");
    }
}
