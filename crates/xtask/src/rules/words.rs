//! Rules of words: the core names no block and no vision term, and code uses the terms of
//! `docs/glossary.md`.

use std::path::Path;

use anyhow::Result;

use super::files::has_word;
use crate::tree::{Finding, RustFile, Tree};

/// Names of built-in blocks, in lower case.
const BLOCKS: [&str; 4] = ["transformer", "mamba", "mamba1", "mamba2"];
/// The folder in which blocks may be named.
const BLOCKS_FOLDER: &str = "crates/mblm/src/blocks";
/// Vision terms, in lower case.
const VISION: [&str; 8] = ["clevr", "vqa", "cnn", "jpeg", "mozjpeg", "png", "image", "images"];
/// Words that the glossary replaces, in lower case, each with its replacement. `pictures` is the
/// name of a data set.
pub(crate) const TERMS: [(&str, &str); 7] = [
    ("portion", "chunk"),
    ("portions", "chunks"),
    ("twin", "reference implementation"),
    ("twins", "reference implementations"),
    ("picture", "image"),
    ("most_", "MAX_"),
    ("widest_", "MAX_"),
];

/// Finds names of blocks in the core outside the blocks' own folder.
pub(crate) fn block_names(tree: &Tree) -> Result<Vec<Finding>> {
    let core = tree
        .production()
        .filter(|file| in_core(file) && !file.path.starts_with(BLOCKS_FOLDER));
    Ok(core
        .flat_map(|file| {
            code_with(file, &BLOCKS).map(|(line, word)| {
                Finding::new(
                    &file.path,
                    line,
                    format!("names the block `{word}`: only {BLOCKS_FOLDER} knows blocks"),
                )
            })
        })
        .collect())
}

/// Finds vision terms in the core.
pub(crate) fn vision_words(tree: &Tree) -> Result<Vec<Finding>> {
    let core = tree.production().filter(|file| in_core(file));
    Ok(core
        .flat_map(|file| {
            code_with(file, &VISION)
                .map(|(line, word)| Finding::new(&file.path, line, format!("the word `{word}` belongs to mblm-vision")))
        })
        .collect())
}

/// Finds words in code and comments that the glossary replaces.
pub(crate) fn terms(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let ours = tree.production().filter(|file| file.crate_name() != Some("xtask"));
    for file in ours {
        for (number, line) in file.production_text() {
            // words inside quotation marks are skipped: names of files, keys and flags stay
            let words = line.split('"').step_by(2).collect::<Vec<_>>().join("\"").to_lowercase();
            for (word, instead) in TERMS {
                let there = match word.strip_suffix('_') {
                    Some(prefix) => line.contains(&format!("{}_", prefix.to_uppercase())),
                    None => has_word(&words, word),
                };
                if there {
                    found.push(Finding::new(
                        &file.path,
                        number,
                        format!("`{word}`: the glossary's word is {instead}"),
                    ));
                }
            }
        }
    }
    Ok(found)
}

fn in_core(file: &RustFile) -> bool {
    file.path.starts_with(Path::new("crates/mblm/src"))
}

/// Returns the first of `words` in each line of code that has one; comments may give examples.
fn code_with<'a>(file: &'a RustFile, words: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a str)> {
    file.production_text().filter_map(|(number, line)| {
        let line = line.trim_start();
        if line.starts_with("//") {
            return None;
        }
        let parts = split_names(line);
        let word = words.iter().find(|word| parts.iter().any(|part| part == *word))?;
        Some((number, *word))
    })
}

/// Splits a line of code into words in lower case: `MambaConfig` and `mamba_config` are `mamba` and
/// `config`.
pub(crate) fn split_names(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut last_is_lower = false;
    for character in line.chars() {
        let starts = character.is_uppercase() && last_is_lower;
        if starts || !character.is_alphanumeric() {
            words.push(String::new());
        }
        if character.is_alphanumeric() {
            words
                .last_mut()
                .expect("there is a first word")
                .extend(character.to_lowercase());
        }
        last_is_lower = character.is_lowercase() || character.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}
