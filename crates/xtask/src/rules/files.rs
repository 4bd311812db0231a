//! Rules of whole files: each Rust file has a header, no code is unfinished, no file is huge.

use anyhow::Result;

use crate::tree::{Finding, Tree};

/// The maximum size of a file in bytes.
const MAX_BYTES: u64 = 5 << 20;

/// Finds Rust files that do not begin with a `//!` paragraph.
pub(crate) fn headers(tree: &Tree) -> Result<Vec<Finding>> {
    let without = tree.rust.iter().filter(|file| file.header().is_empty());
    Ok(without
        .map(|file| Finding::new(&file.path, 1, "expected a //! paragraph that says what the file is"))
        .collect())
}

/// Finds files over 5 MiB.
pub(crate) fn large(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for path in &tree.files {
        let bytes = tree.root.join(path).metadata()?.len();
        if bytes > MAX_BYTES {
            found.push(Finding::new(
                path,
                1,
                format!("{bytes} bytes: expected at most {MAX_BYTES}"),
            ));
        }
    }
    Ok(found)
}

/// Finds marks of unfinished code in sources and configurations.
pub(crate) fn unfinished(tree: &Tree) -> Result<Vec<Finding>> {
    // in two parts, so that this file does not contain them
    let marks = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X"],
        ["todo", "!("],
        ["unimplemented", "!("],
    ]
    .map(|mark| mark.concat());
    let mut found = Vec::new();
    let kinds = ["rs", "toml", "yaml", "cu"];
    let is_source = |path: &&std::path::PathBuf| {
        path.extension()
            .is_some_and(|kind| kinds.iter().any(|known| kind == *known))
    };
    for path in tree.files.iter().filter(is_source) {
        let Ok(text) = std::fs::read_to_string(tree.root.join(path)) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| has_word(line, mark)) {
                found.push(Finding::new(path, index + 1, format!("unfinished: {mark}")));
            }
        }
    }
    Ok(found)
}

/// Whether a line contains `word` without a letter, digit or underscore next to it.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let outside = |beside: Option<char>| beside.is_none_or(|other| !other.is_alphanumeric() && other != '_');
        outside(before) && (word.ends_with('(') || outside(after))
    })
}
