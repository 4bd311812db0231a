//! A small data set for tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::image::testing::{noise, png};
use mblm::data::{Dataset, DatasetArgs, Sample, Split};

/// A folder with six questions about three images of 12 × 8 pixels, for training and for
/// validation.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["train", "val"] {
            fs::create_dir_all(folder.path().join("images").join(name)).unwrap();
            let questions = ["2", "yes", "green", "10", "no", "small"]
                .iter()
                .enumerate()
                .map(|(index, answer)| {
                    json!({
                        "question": format!("What is {index}?"), "answer": answer, "question_family_index": index,
                        "image_filename": format!("{}.png", index / 2), "program": [{"function": "count"}],
                    })
                });
            folder.write_questions(name, questions.collect());
            for image in 0..3 {
                fs::write(folder.image(name, image), png(&noise(12, 8, image as u32))).unwrap();
            }
        }
        folder
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn questions(&self, name: &str) -> PathBuf {
        self.path().join(format!("questions/CLEVR_{name}_questions.json"))
    }

    pub(super) fn image(&self, name: &str, image: usize) -> PathBuf {
        self.path().join(format!("images/{name}/{image}.png"))
    }

    pub(super) fn write_questions(&self, name: &str, list: Vec<Value>) {
        fs::create_dir_all(self.path().join("questions")).unwrap();
        fs::write(self.questions(name), json!({"questions": list}).to_string()).unwrap();
    }

    /// Changes a value of a question of the training split.
    pub(super) fn change(&self, question: usize, key: &str, value: Value) {
        let text = fs::read(self.questions("train")).unwrap();
        let mut questions: Value = serde_json::from_slice(&text).unwrap();
        questions["questions"][question][key] = value;
        fs::write(self.questions("train"), questions.to_string()).unwrap();
    }

    pub(super) fn args(&self, options: Value) -> DatasetArgs {
        args(self.path(), Split::Train, 340, options)
    }

    pub(super) fn message(&self, options: Value) -> String {
        Clevr::open(&self.args(options)).err().unwrap().to_string()
    }
}

pub(super) fn args(dir: &Path, split: Split, sample_len: usize, options: Value) -> DatasetArgs {
    DatasetArgs {
        pad_token_id: 256,
        num_tokens: 260,
        options: options.as_object().cloned().unwrap(),
        ..DatasetArgs::new(dir, split, sample_len)
    }
}

pub(super) fn samples(args: &DatasetArgs) -> Vec<Sample> {
    let set = Clevr::open(args).unwrap().unwrap();
    (0..set.len(0)).map(|index| set.sample(index, 0).unwrap()).collect()
}
