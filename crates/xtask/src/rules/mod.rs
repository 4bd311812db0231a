//! The rules of `cargo xtask tidy`. Each rule returns its findings in a tree.

mod crates;
mod documents;
mod files;
mod operations;
mod sizes;
mod state;
#[cfg(test)]
mod tests;
mod words;

use anyhow::Result;

use crate::tree::{Finding, Tree};

/// Returns the violations of a rule.
pub(crate) type Rule = fn(&Tree) -> Result<Vec<Finding>>;

/// All rules, with their names.
pub(crate) const ALL: &[(&str, Rule)] = &[
    ("header", files::headers),
    ("large-file", files::large),
    ("unfinished", files::unfinished),
    ("file-length", sizes::file_length),
    ("function-length", sizes::function_length),
    ("import-cycle", crates::import_cycles),
    ("upward-dependency", crates::upward_dependencies),
    ("block-name", words::block_names),
    ("vision-word", words::vision_words),
    ("term", words::terms),
    ("global-state", state::globals),
    ("direct-write", state::direct_writes),
    ("reference", operations::references),
    ("link", documents::links),
    ("command", documents::commands),
    ("prose-width", documents::prose_width),
    ("term-in-document", documents::terms),
];
