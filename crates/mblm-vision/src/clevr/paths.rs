//! The paths of the questions and images of a split of CLEVR.

use std::path::PathBuf;

use mblm::data::{DatasetArgs, Split};

/// Returns the file of questions and the folder of images of a split; `None` for the test split,
/// whose answers are not published.
pub(super) fn split_paths(args: &DatasetArgs) -> Option<(PathBuf, PathBuf)> {
    let name = match args.split {
        Split::Train => "train",
        Split::Validation => "val",
        Split::Test => return None,
    };
    let questions = args.dir.join("questions").join(format!("CLEVR_{name}_questions.json"));
    Some((questions, args.dir.join("images").join(name)))
}
