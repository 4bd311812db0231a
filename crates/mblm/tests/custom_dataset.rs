//! A user's data set: registered by name, trained from a configuration.

#[path = "../examples/custom_dataset.rs"]
mod custom_dataset;

use custom_dataset::{CONFIG, train};

#[test]
fn it_trains_by_its_name_and_its_weights_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let outcome = train(CONFIG, folder.path(), &mut ()).expect("training");
    assert_eq!(outcome.batches, 400);
    // ln 10 is guessing among digits; only the answer's digits count, one to two of eight places
    let best = outcome.best.expect("a validation");
    assert!(best.mean < 2.0, "{best:?}");
    let sums = 45; // every 20th of 900
    assert!((sums..=2 * sums).contains(&best.count), "{best:?}");
    assert!(
        outcome
            .model_folder
            .expect("a model")
            .join("model.safetensors")
            .is_file()
    );
}

#[test]
fn its_options_and_its_name_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = |from: &str, to: &str| {
        assert!(CONFIG.contains(from));
        let config = CONFIG.replace(from, to);
        train(&config, folder.path(), &mut ())
            .expect_err("an error")
            .to_string()
    };
    assert!(message("below: 30", "bellow: 30").contains("unknown field `bellow`"));
    assert!(message("dataset_id: sums", "dataset_id: sum").contains("did you mean `sums`?"));
    assert!(message("input_seq_len: 8", "input_seq_len: 4").contains("input_seq_len is 4; raise it"));
}
