//! The whole data set: ids as in the published package, workers, prepared images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::testing::{Folder, args, samples};
use super::*;
use crate::image::resize::resize;
use crate::image::testing::{noise, png};
use crate::testing::tasks;
use mblm::data::{Dataset, DatasetArgs, Loader, LoaderOptions, Order, Position, Split};

#[test]
fn the_fixture_is_matched_exactly() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clevr");
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases = metadata.metadata().clone().unwrap();
    assert_eq!(cases.len(), 4);
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        let tensor = expected.tensor(name).unwrap();
        tensor
            .data()
            .chunks_exact(4)
            .map(|word| word.try_into().unwrap())
            .collect()
    };
    for (case, options) in cases {
        let options: Map<String, Value> = serde_json::from_str(&options).unwrap();
        for index in 0..3 {
            let ids: Vec<u32> = words(&format!("{case}.{index}.ids"))
                .into_iter()
                .map(u32::from_le_bytes)
                .collect();
            let mask: Vec<f32> = words(&format!("{case}.{index}.mask"))
                .into_iter()
                .map(f32::from_le_bytes)
                .collect();
            let args = args(&folder, Split::Validation, 8000, Value::Object(options.clone()));
            let set = tasks().open("clevr", &args).unwrap().unwrap();
            assert_eq!(set.len(0), 3);
            let sample = set.sample(index, 1).unwrap();
            let weights = sample.loss_weights.unwrap();
            assert_eq!(sample.ids[..ids.len()], ids, "{case}.{index}");
            assert_eq!(weights[..ids.len()], mask, "{case}.{index}");
            // and padding, which is not counted
            assert!(sample.ids.len() == 8000 && sample.ids[ids.len()..].iter().all(|id| *id == 256));
            assert!(weights.len() == 8000 && weights[ids.len()..].iter().all(|weight| *weight == 0.0));
        }
    }
}

#[test]
fn workers_share_the_questions_of_a_split() {
    let folder = Folder::new();
    let all = samples(&folder.args(json!({})));
    assert_eq!(all.len(), 6);
    for worker in 0..4 {
        let own = samples(&DatasetArgs {
            worker,
            workers: 4,
            ..folder.args(json!({}))
        });
        // one each, the remainder dropped
        assert_eq!(own, all[worker..=worker]);
    }
    let args = DatasetArgs {
        workers: 7,
        ..folder.args(json!({}))
    };
    let message = Clevr::open(&args).err().unwrap().to_string();
    assert!(message.contains("6 questions are too few for 7 workers"), "{message}");
    let test = DatasetArgs {
        split: Split::Test,
        ..folder.args(json!({}))
    };
    assert!(Clevr::open(&test).unwrap().is_none());
}

#[test]
fn without_special_ids_a_sample_is_its_bytes() {
    let folder = Folder::new();
    let sample = samples(&folder.args(json!({"target_mode": "a", "resize_to_w": 1, "resize_to_h": 1}))).remove(1);
    let pixel = resize(&noise(12, 8, 0), 1, 1).rgb;
    let text = b"What is 1?";
    let expected = [&text[..], &pixel, text, b"yes"].concat();
    let ids: Vec<u32> = expected.iter().copied().map(u32::from).collect();
    assert_eq!(sample.ids[..ids.len()], ids);
    let weights = sample.loss_weights.unwrap();
    assert_eq!(weights.iter().sum::<f32>(), 3.0);
    assert_eq!(weights[ids.len() - 3..ids.len()], [1.0; 3]);
}

#[test]
fn batches_prepared_by_many_threads_are_in_order() {
    let folder = Folder::new();
    let set: Arc<dyn Dataset> = Arc::new(Clevr::open(&folder.args(json!({}))).unwrap().unwrap());
    assert!(set.is_costly());
    let expected = samples(&folder.args(json!({})));
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let order = Order::Shuffled { seed: 4 };
        let options = LoaderOptions::training(4, order, Position::default());
        let batches: Vec<_> = pool.install(|| {
            Loader::new(set.clone(), options)
                .unwrap()
                .take(5)
                .map(Result::unwrap)
                .collect()
        });
        for batch in batches {
            for (row, index) in batch.samples.iter().enumerate() {
                assert_eq!(batch.ids[row * batch.len..][..batch.len], expected[*index].ids);
            }
        }
    }
}

/// Returns the only file of prepared images in a folder.
fn cached(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn prepared_images_are_those_that_would_be_made() {
    let folder = Folder::new();
    for options in [
        json!({"resize_to_w": 5, "resize_to_h": 4}),
        json!({"enable_jpeg_stream_with_quality": 20}),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let with = |dir: &Path| {
            let mut options = options.clone();
            options["cache_dir"] = dir.to_str().into();
            DatasetArgs {
                sample_len: 2000,
                ..folder.args(options)
            }
        };
        let args = DatasetArgs {
            sample_len: 2000,
            ..folder.args(options.clone())
        };
        let plain = samples(&args);
        assert_eq!(samples(&with(cache.path())), plain);
        let written = fs::read(cached(cache.path())).unwrap();
        assert_eq!(samples(&with(cache.path())), plain);
        // a damaged image is prepared again on access
        let mut damaged = written.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(cached(cache.path()), &damaged).unwrap();
        assert_eq!(samples(&with(cache.path())), plain);
        // a damaged table or a truncated file is made again on opening
        let mut table = written.clone();
        table[50] ^= 1;
        for wrong in [&table[..], &written[..written.len() - 1], &written[..20], b""] {
            fs::write(cached(cache.path()), wrong).unwrap();
            assert_eq!(samples(&with(cache.path())), plain);
            assert_eq!(fs::read(cached(cache.path())).unwrap(), written);
        }
        // the file disappears while in use
        let set = Clevr::open(&with(cache.path())).unwrap().unwrap();
        fs::remove_file(cached(cache.path())).unwrap();
        assert_eq!(set.sample(5, 0).unwrap(), plain[5]);
    }
}

#[test]
fn changed_images_and_options_are_prepared_anew() {
    let folder = Folder::new();
    let cache = tempfile::tempdir().unwrap();
    let options = |width: u32| json!({"resize_to_w": width, "resize_to_h": 4, "cache_dir": cache.path()});
    let before = samples(&folder.args(options(5)));
    fs::write(folder.image("train", 0), png(&noise(12, 9, 77))).unwrap();
    let after = samples(&folder.args(options(5)));
    assert_ne!(after[0], before[0]);
    assert_eq!(after[2..], before[2..]);
    assert_eq!(
        after,
        samples(&folder.args(json!({"resize_to_w": 5, "resize_to_h": 4})))
    );
    // other options have their own files
    cached(cache.path());
    samples(&folder.args(options(6)));
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);
    let file = folder.image("train", 0);
    let message = folder.message(json!({"cache_dir": file.join("sub")}));
    assert!(message.contains("0.png"), "{message}");
}
