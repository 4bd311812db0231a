//! Rules of documents: relative links must exist, and the README must name the two commands that
//! `.ci/run` calls.

use std::path::Path;

use anyhow::{Context, Result};

use crate::tree::{Finding, Tree};

/// The README's two commands: the quick start, and all tests.
const COMMANDS: [&str; 2] = [
    "cargo run --release -p mblm-cli -- train configs/quickstart.yaml --minutes 2.5 --precision fastest",
    "cargo test --workspace",
];

/// Finds relative links of Markdown files to missing files.
pub(crate) fn links(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let documents = tree
        .files
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    for path in documents {
        let text = std::fs::read_to_string(tree.root.join(path)).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for (index, line) in text.lines().enumerate() {
            for target in targets(line) {
                if !tree.root.join(folder).join(target).exists() {
                    found.push(Finding::new(
                        path,
                        index + 1,
                        format!("the link {target} leads nowhere"),
                    ));
                }
            }
        }
    }
    Ok(found)
}

/// Returns the link targets in a line that are files, without URLs and fragments.
pub(crate) fn targets(line: &str) -> impl Iterator<Item = &str> {
    let links = line
        .match_indices("](")
        .map(|(at, opening)| &line[at + opening.len()..]);
    let targets = links.filter_map(|rest| rest.split([')', '#', ' ']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
}

/// Finds commands that the README does not name on a line of their own.
pub(crate) fn commands(tree: &Tree) -> Result<Vec<Finding>> {
    let path = Path::new("README.md");
    let text = std::fs::read_to_string(tree.root.join(path)).context("README.md")?;
    let missing = COMMANDS
        .iter()
        .filter(|command| !text.lines().any(|line| line == **command));
    Ok(missing
        .map(|command| Finding::new(path, 1, format!("does not name the command: {command}")))
        .collect())
}
