//! Samples id by id, splits, workers, prepared images, and invalid files.

mod damage;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::image::Image;
use crate::image::jpeg::Jpeg;
use crate::image::testing::{noise, png};
use crate::testing::tasks;
use mblm::data::{Dataset, DatasetArgs, OnOpening, Sample, Split};

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with images of 4 × 3 pixels under these names.
    fn new(names: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (seed, name) in names.iter().enumerate() {
            let image = noise(4, 3, seed as u32);
            let jpeg = Jpeg { quality: 60, rgb: true };
            folder.write(
                name,
                match name.ends_with("png") {
                    true => png(&image),
                    false => jpeg.encode(&image).unwrap(),
                },
            );
        }
        folder
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.path().join(name)).unwrap()
    }

    fn args(&self, split: Split, options: Value) -> DatasetArgs {
        DatasetArgs {
            pad_token_id: 256,
            num_tokens: 259,
            options: options.as_object().cloned().unwrap(),
            ..DatasetArgs::new(self.0.path(), split, 2000)
        }
    }

    fn open(&self, split: Split, options: Value) -> Option<ImageFolder> {
        ImageFolder::open(&self.args(split, options)).unwrap()
    }

    fn message(&self, split: Split, options: Value) -> String {
        let opened = ImageFolder::open(&self.args(split, options));
        opened.err().expect("opening should fail").to_string()
    }
}

fn samples(set: &ImageFolder) -> Vec<Sample> {
    (0..set.len(0)).map(|index| set.sample(index, 0).unwrap()).collect()
}

/// Returns the names of a split's files, in order.
fn names(folder: &Folder, split: Split, options: Value) -> Vec<String> {
    let Some(set) = folder.open(split, options) else {
        return Vec::new();
    };
    let name = |path: PathBuf| path.strip_prefix(folder.0.path()).unwrap().display().to_string();
    (0..set.len(0)).map(|index| name(set.path(index).unwrap())).collect()
}

fn pixels() -> Value {
    json!({"resize_to_w": 4, "resize_to_h": 3})
}

/// Returns the bytes of a sample without special ids.
fn bytes(sample: &Sample) -> Vec<u8> {
    let ids = sample.ids.iter().take_while(|id| **id < 256);
    ids.map(|id| *id as u8).collect()
}

#[test]
fn a_image_is_its_channels_between_two_ids() {
    let folder = Folder::new(&[]);
    let image = Image {
        width: 2,
        height: 1,
        rgb: vec![1, 2, 3, 4, 5, 6],
    };
    folder.write("a.PNG", png(&image));
    let options =
        json!({"resize_to_w": 2, "resize_to_h": 1, "som_image_token_id": 258, "eom_token_id": 257, "held_out": 0});
    let args = DatasetArgs {
        sample_len: 10,
        ..folder.args(Split::Train, options)
    };
    let set = tasks().open("pictures", &args).unwrap().unwrap();
    assert!(set.is_costly());
    assert_eq!((set.len(0), set.bytes()), (1, 10));
    let sample = set.sample(0, 3).unwrap();
    assert_eq!(sample.ids, [258, 1, 4, 2, 5, 3, 6, 257, 256, 256]);
    assert_eq!(
        sample.loss_weights.unwrap(),
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    );
    assert!(set.sample(1, 0).unwrap_err().to_string().contains("sample 1 of 1"));
    let layout = Layout::new(&args).unwrap();
    assert_eq!((layout.prompt(), layout.ends()), (vec![258], vec![257, 256]));
    assert_eq!(layout.form().decode(&[1, 4, 2, 5, 3, 6]).unwrap(), image);
    let message = layout.form().decode(&[1, 4]).unwrap_err();
    assert_eq!(message, "ended after 2 of 6 bytes");
}

#[test]
fn samples_can_be_jpeg_files_made_or_found() {
    let folder = Folder::new(&["train/a.png", "train/b.jpeg", "val/c.JPG"]);
    folder.write("train/notes.txt", "not a picture");
    // JPEG files made from both kinds
    let made = folder
        .open(Split::Train, json!({"enable_jpeg_stream_with_quality": 30}))
        .unwrap();
    let jpeg = Jpeg { quality: 30, rgb: true };
    let expected: Vec<Vec<u8>> = ["train/a.png", "train/b.jpeg"]
        .map(|name| jpeg.encode(&Image::decode(&folder.read(name)).unwrap()).unwrap())
        .into();
    assert_eq!(samples(&made).iter().map(bytes).collect::<Vec<_>>(), expected);
    // JPEG files unchanged
    let found = folder.open(Split::Train, json!({"jpeg_files": true})).unwrap();
    assert_eq!(
        samples(&found).iter().map(bytes).collect::<Vec<_>>(),
        [folder.read("train/b.jpeg")]
    );
    // pixels of all files
    let pixels = folder.open(Split::Validation, pixels()).unwrap();
    let image = Image::decode(&folder.read("val/c.JPG")).unwrap();
    assert_eq!(bytes(&samples(&pixels)[0]), image.channels());
}

#[test]
fn subfolders_are_splits() {
    let list = ["train/b/z.png", "train/a.png", "train/b.png", "validation/a.png"];
    let folder = Folder::new(&list);
    assert_eq!(
        names(&folder, Split::Train, pixels()),
        ["train/a.png", "train/b/z.png", "train/b.png"]
    );
    assert_eq!(names(&folder, Split::Validation, pixels()), ["validation/a.png"]);
    assert!(folder.open(Split::Test, pixels()).is_none());
    let mut options = pixels();
    options["held_out"] = 0.5.into();
    let message = folder.message(Split::Train, options);
    assert!(
        message.contains("has the splits train and validation; remove held_out"),
        "{message}"
    );
    folder.write("test/x.png", folder.read("train/a.png"));
    assert_eq!(names(&folder, Split::Test, pixels()), ["test/x.png"]);
    folder.write("val/x.png", folder.read("train/a.png"));
    let message = folder.message(Split::Validation, pixels());
    assert!(message.contains("found validation beside val"), "{message}");
}

#[test]
fn images_without_splits_are_held_out_by_their_names() {
    let list: Vec<String> = (0..21).map(|index| format!("{index:02}/a.png")).collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let folder = Folder::new(&list);
    let options = || json!({"resize_to_w": 1, "resize_to_h": 1, "held_out": 0.25});
    let parts = SPLITS.map(|split| names(&folder, split, options()));
    // ⌊21 / 4⌋ = 5 are held out
    assert_eq!(parts.each_ref().map(Vec::len), [16, 3, 2]);
    let mut all = parts.concat();
    assert!(parts.iter().all(|part| part.is_sorted()), "{parts:?}");
    all.sort();
    assert_eq!(all, list);
    assert_ne!(parts[0], list[..16], "not the last by name");
    // independent of the seed
    let seeded = DatasetArgs {
        seed: 9,
        ..folder.args(Split::Validation, options())
    };
    let set = ImageFolder::open(&seeded).unwrap().unwrap();
    assert!(set.path(0).unwrap().ends_with(&parts[1][0]));
    // few images leave nothing to hold out
    let few = Folder::new(&["a.png", "b.png"]);
    assert_eq!(few.open(Split::Train, pixels()).unwrap().len(0), 2);
    assert!(few.open(Split::Validation, pixels()).is_none());
    let mut wrong = options();
    wrong["held_out"] = 1.into();
    assert!(
        folder
            .message(Split::Train, wrong)
            .contains("held_out is 1: expected the share")
    );
}

#[test]
fn workers_share_the_images_of_a_split() {
    let folder = Folder::new(&["train/a.png", "train/b.png", "train/c.png", "val/d.png"]);
    let of = |worker, workers| DatasetArgs {
        worker,
        workers,
        ..folder.args(Split::Train, pixels())
    };
    let all = samples(&ImageFolder::open(&of(0, 1)).unwrap().unwrap());
    for worker in 0..2 {
        let set = ImageFolder::open(&of(worker, 2)).unwrap().unwrap();
        assert_eq!(samples(&set), all[worker..=worker]);
        assert!(
            set.describe()
                .contains(&format!("3 as 4 × 3 pixels, worker {worker} of 2 reads 1")),
            "{}",
            set.describe()
        );
    }
    let message = ImageFolder::open(&of(0, 4)).err().unwrap().to_string();
    assert!(message.contains("3 images are too few for 4 workers"), "{message}");
}

#[test]
fn prepared_images_are_those_that_would_be_made() {
    let list: Vec<String> = (0..9).map(|index| format!("{index}.png")).collect();
    let folder = Folder::new(&list.iter().map(String::as_str).collect::<Vec<_>>());
    for options in [pixels(), json!({"enable_jpeg_stream_with_quality": 40})] {
        let cache = tempfile::tempdir().unwrap();
        let with = |key: &str, value: Value| {
            let mut options = options.clone();
            options["held_out"] = 0.3.into();
            options[key] = value;
            options
        };
        for split in [Split::Train, Split::Validation] {
            let plain = samples(&folder.open(split, with("held_out", 0.3.into())).unwrap());
            let options = with("cache_dir", cache.path().to_str().into());
            let kept = samples(&folder.open(split, options).unwrap());
            assert_eq!(kept, plain, "{split}");
        }
        // the splits of one folder share the prepared images
        let files = fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(files, 1);
    }
}

#[test]
fn progress_of_preparing_reaches_the_total() {
    let folder = Folder::new(&["a.png", "b.jpg"]);
    let total = (folder.read("a.png").len() + folder.read("b.jpg").len()) as u64;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let on_opening: OnOpening = Arc::new(move |opening| log.lock().unwrap().push((opening.done, opening.total)));
    let args = DatasetArgs {
        on_opening: Some(on_opening),
        ..folder.args(Split::Train, json!({"enable_jpeg_stream_with_quality": 40}))
    };
    ImageFolder::open(&args).unwrap().unwrap();
    assert_eq!(*seen.lock().unwrap(), [(total, total)]);
}

#[test]
fn samples_that_are_too_long_are_found_when_the_set_is_opened() {
    let folder = Folder::new(&["a.jpg", "b.jpg"]);
    let len = folder.read("b.jpg").len();
    folder.write("c.jpg", [folder.read("b.jpg"), vec![0; 9]].concat());
    for (sample_len, options, parts) in [
        (
            // only c is longer
            folder.read("a.jpg").len().max(len) + 2,
            json!({"jpeg_files": true, "som_image_token_id": 258, "eom_token_id": 257}),
            vec!["c.jpg: the sample has", "2 special ids", "raise it"],
        ),
        (
            35,
            pixels(),
            vec![
                "a.jpg: the sample has 36 ids (36 bytes of the image, 0 special ids), but input_seq_len is 35",
                "; 2 more images are too long",
            ],
        ),
        (
            90,
            json!({"enable_jpeg_stream_with_quality": 40}),
            vec!["a.jpg: the sample has", "a lower quality"],
        ),
    ] {
        let args = DatasetArgs {
            sample_len,
            ..folder.args(Split::Train, options)
        };
        let message = ImageFolder::open(&args).err().unwrap().to_string();
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn wrong_files_are_named() {
    let sound = || Folder::new(&["a.png", "b.jpg", "c.png"]);
    let damage = |name: &str, change: fn(&mut Vec<u8>)| {
        let folder = sound();
        let mut bytes = folder.read(name);
        change(&mut bytes);
        folder.write(name, bytes);
        folder
    };
    // found by opening
    let shorter = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 3);
    let message = damage("c.png", shorter).message(Split::Train, pixels());
    assert!(message.contains("c.png: the file is truncated"), "{message}");
    let message = damage("b.jpg", Vec::clear).message(Split::Train, json!({"jpeg_files": true}));
    assert!(message.contains("b.jpg: expected a JPEG file"), "{message}");
    let message = damage("b.jpg", shorter).message(Split::Train, json!({"enable_jpeg_stream_with_quality": 9}));
    assert!(
        message.contains("b.jpg: ") && message.contains("JPEG file"),
        "{message}"
    );
    let folder = damage("a.png", shorter);
    folder.write("c.png", folder.read("a.png"));
    let message = folder.message(Split::Train, pixels());
    assert!(
        message.contains("a.png: the file is truncated")
            && message.contains("c.png: the file is truncated")
            && message.ends_with("; 2 of 3 images are damaged"),
        "{message}"
    );
    // found by reading the sample
    let flipped = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
    };
    for (name, change, index, part) in [
        ("a.png", flipped as fn(&mut Vec<u8>), 0, "expected a PNG file"),
        ("b.jpg", shorter, 1, "the JPEG file cannot be decoded: "),
    ] {
        let folder = damage(name, change);
        let set = folder.open(Split::Train, pixels()).unwrap();
        let message = set.sample(index, 0).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}: {part}")), "{message}");
        assert!(set.sample(2, 0).is_ok());
    }
    // no images
    let empty = Folder::new(&[]);
    empty.write("a.txt", "text");
    let message = empty.message(Split::Train, pixels());
    assert!(
        message.contains("expected images, files whose names end in .png"),
        "{message}"
    );
    assert!(message.contains("found none among 1 files"), "{message}");
    let missing = DatasetArgs {
        dir: Path::new("/nowhere").into(),
        ..empty.args(Split::Train, pixels())
    };
    let message = ImageFolder::open(&missing).err().unwrap().to_string();
    assert!(message.contains("no such file or folder"), "{message}");
    let file = DatasetArgs {
        dir: empty.write("a.png", "text"),
        ..missing
    };
    let message = ImageFolder::open(&file).err().unwrap().to_string();
    assert!(
        message.contains("expected a folder of images, found a file"),
        "{message}"
    );
}

#[test]
fn options_that_make_no_sense_are_named() {
    let folder = Folder::new(&["a.png"]);
    for (options, part) in [
        (json!({}), "resize_to_w, resize_to_h: expected the size of all images"),
        (json!({"resize_to_w": 3}), "resize_to_w: expected resize_to_h beside it"),
        (
            json!({"shift_channels_start": 3}),
            "unknown field `shift_channels_start`",
        ),
        (
            json!({"jpeg_files": true, "crop_h_perc": 0.1}),
            "jpeg_files: expected no key that prepares images, because the files are read unchanged, found crop_h_perc",
        ),
        (
            json!({"jpeg_files": true, "enable_jpeg_stream_with_quality": 3}),
            "found enable_jpeg_stream_with_quality beside it",
        ),
        (
            json!({"enable_jpeg_stream_with_quality": 96}),
            "expected 0 to 95, found 96",
        ),
        (
            json!({"jpeg_files": true, "eom_token_id": 255}),
            "eom_token_id: expected an id above 255",
        ),
        (
            json!({"jpeg_files": true, "som_image_token_id": 259}),
            "som_image_token_id: expected an id below params.num_tokens",
        ),
    ] {
        let message = folder.message(Split::Train, options.clone());
        assert!(message.contains(part), "{options}: {message}");
    }
}
