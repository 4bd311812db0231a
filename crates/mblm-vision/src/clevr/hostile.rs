//! Invalid files: opening the set, its check, or the affected sample finds and names each.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::testing::{Folder, args};
use super::*;
use mblm::data::{Dataset, Split};

#[test]
fn wrong_files_are_found_when_the_set_is_opened() {
    type Case<'a> = (&'a str, fn(&Folder), Value, &'a [&'a str]);
    let cases: [Case; 8] = [
        (
            "no folder",
            |folder| fs::remove_dir_all(folder.path().join("images")).unwrap(),
            json!({}),
            &["images/train: no such folder"],
        ),
        (
            "missing image",
            |folder| fs::remove_file(folder.image("train", 1)).unwrap(),
            json!({}),
            &["images/train/1.png: no such image (question 2 of CLEVR_train_questions.json names it)"],
        ),
        (
            "image that was never there",
            |folder| folder.change(4, "image_filename", "../val/2.png".into()),
            json!({}),
            &["2.png: no such image (question 4 of"],
        ),
        (
            "truncated image",
            |folder| {
                let bytes = fs::read(folder.image("train", 2)).unwrap();
                fs::write(folder.image("train", 2), &bytes[..bytes.len() - 5]).unwrap();
            },
            json!({}),
            &["images/train/2.png: the file is truncated", "(question 4 of"],
        ),
        (
            "empty image",
            |folder| fs::write(folder.image("train", 0), "").unwrap(),
            json!({}),
            &["images/train/0.png: ", "truncated", "(question 0 of"],
        ),
        (
            "no answer of the map",
            |folder| folder.change(3, "answer", "maybe".into()),
            json!({"answer_categorical": true}),
            &[
                "CLEVR_train_questions.json: question 3 (1.png): answer_categorical allows",
                "found `maybe`",
            ],
        ),
        (
            "empty answer",
            |folder| folder.change(3, "answer", "".into()),
            json!({}),
            &["question 3 (1.png): the answer is empty"],
        ),
        (
            "long sample",
            |folder| folder.change(5, "question", "Why? ".repeat(9).into()),
            json!({"eom_token_id": 257}),
            // 12 · 8 · 3 + 1 ids of image, 45 + 1 of question twice, 5 + 1 of answer
            &[
                "question 5 (2.png): the sample has 387 ids",
                "input_seq_len is 340; raise it",
            ],
        ),
    ];
    for (name, damage, options, parts) in cases {
        let folder = Folder::new();
        damage(&folder);
        let message = folder.message(options.clone());
        for part in parts {
            assert!(message.contains(part), "{name}: {message}");
        }
        assert!(!message.contains("more problems"), "{name}: {message}");
        // the check finds the same problem
        if let Ok(Some(report)) = check(&folder.args(options), 10) {
            assert_eq!(report.problem_count, 1, "{name}: {report:?}");
            assert_eq!(report.problems[0].to_string(), message, "{name}");
        }
    }
    let message = Clevr::open(&args(Path::new("/nowhere"), Split::Train, 9, json!({})))
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("/nowhere/questions/CLEVR_train_questions.json: no such file; expected"),
        "{message}"
    );
}

#[test]
fn several_problems_are_counted_and_listed() {
    let folder = Folder::new();
    fs::remove_file(folder.image("train", 1)).unwrap();
    folder.change(0, "answer", "maybe".into());
    folder.change(4, "answer", "perhaps".into());
    let options = json!({"answer_categorical": true});
    let message = folder.message(options.clone());
    assert!(
        message.contains("`maybe`") && message.ends_with("; 2 more problems, which `mblm data check` lists"),
        "{message}"
    );
    let report = check(&folder.args(options), 2).unwrap().unwrap();
    assert_eq!((report.problem_count, report.problems.len()), (3, 2));
    assert_eq!((report.questions, report.images), (6, 3));
    assert_eq!(report.types, [(Some(QuestionType::Count), 6)]);
    assert_eq!((report.problems[0].question, report.problems[1].question), (0, 2));
    let longest = report.longest.unwrap();
    assert_eq!((longest.ids, longest.parts), (10 + 288 + 10 + 1, [10, 288, 10, 1]));
}

/// Damages the middle of a file; only decoding finds it.
fn break_pixels(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_pixels_are_found_by_the_check_and_named_by_the_sample() {
    let folder = Folder::new();
    break_pixels(&folder.image("train", 1));
    let set = Clevr::open(&folder.args(json!({}))).unwrap().unwrap();
    assert!(set.sample(0, 0).is_ok());
    let message = set.sample(3, 0).unwrap_err().to_string();
    assert!(
        message.contains("images/train/1.png: ") && message.contains("(question 3 names it)"),
        "{message}"
    );
    let report = check(&folder.args(json!({})), 10).unwrap().unwrap();
    assert_eq!(report.problem_count, 1, "{report:?}");
    assert_eq!(report.problems[0].file, folder.image("train", 1));
    // preparing all images at opening also finds it
    let cache = tempfile::tempdir().unwrap();
    let message = folder.message(json!({"cache_dir": cache.path()}));
    assert!(message.contains("images/train/1.png: "), "{message}");
}

#[test]
fn a_compressed_sample_that_is_too_long_is_found_by_the_check() {
    let folder = Folder::new();
    let options = json!({"enable_jpeg_stream_with_quality": 90});
    let set = Clevr::open(&folder.args(options.clone())).unwrap().unwrap();
    let message = set.sample(0, 0).unwrap_err().to_string();
    assert!(message.contains("question 0 (0.png): the sample has"), "{message}");
    let report = check(&folder.args(options.clone()), 10).unwrap().unwrap();
    assert_eq!(report.problem_count, 6);
    assert_eq!(report.problems[0].to_string(), message);
    // prepared at opening, so its length is known
    let cache = tempfile::tempdir().unwrap();
    let mut options = options;
    options["cache_dir"] = cache.path().to_str().into();
    assert!(folder.message(options).contains("question 0 (0.png): the sample has"));
}
