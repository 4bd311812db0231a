//! Rules of documents: relative links must exist, the README must name the two commands that
//! `.ci/run` calls, and prose has at most 100 columns and the words of `docs/glossary.md`.

use std::path::Path;

use anyhow::{Context, Result};

use super::files::has_word;
use super::words::TERMS;
use crate::tree::{Finding, Tree};

/// The README's two commands: the quick start, and all tests.
const COMMANDS: [&str; 2] = [
    "cargo run --release -p mblm-cli -- train configs/quickstart.yaml --minutes 2.5 --precision fastest",
    "cargo test --workspace",
];

/// Finds relative links of Markdown files to missing files.
pub(crate) fn links(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let documents = tree.files.iter().filter(|path| has_extension(path, "md"));
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

/// The widest line of prose, in Markdown and in comments.
const MAX_COLUMNS: usize = 100;

/// Finds lines of prose that are too wide: of Markdown files, and comments of Rust files. Tables,
/// code blocks and lines with an address or a link are exempt.
pub(crate) fn prose_width(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for path in tree.files.iter().filter(|path| has_extension(path, "md")) {
        let text = std::fs::read_to_string(tree.root.join(path)).with_context(|| path.display().to_string())?;
        found.extend(wide(path, text.lines().map(Some)));
    }
    for file in &tree.rust {
        let comment = |line| str::trim_start(line).starts_with("//").then_some(line);
        found.extend(wide(&file.path, file.text.lines().map(comment)));
    }
    Ok(found)
}

/// Finds the wide lines of prose among the lines of a file; `None` is a line of code.
fn wide<'a>(path: &Path, lines: impl Iterator<Item = Option<&'a str>>) -> Vec<Finding> {
    let (mut in_code, mut found) = (false, Vec::new());
    for (index, line) in lines.enumerate() {
        let Some(line) = line else {
            in_code = false;
            continue;
        };
        let prose = line.trim_start().trim_start_matches(['/', '!']).trim_start();
        if prose.starts_with("```") || prose.starts_with("~~~") {
            in_code = !in_code;
            continue;
        }
        let exempt =
            in_code || prose.starts_with('|') || line.contains("://") || line.contains("](") || prose.starts_with('<');
        let columns = line.chars().count();
        if columns > MAX_COLUMNS && !exempt {
            found.push(Finding::new(
                path,
                index + 1,
                format!("{columns} columns: expected at most {MAX_COLUMNS} in prose"),
            ));
        }
    }
    found
}

/// Finds words in Markdown files that the glossary replaces, outside code.
pub(crate) fn terms(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for path in tree
        .files
        .iter()
        .filter(|path| has_extension(path, "md") && !path.ends_with("glossary.md"))
    {
        let text = std::fs::read_to_string(tree.root.join(path)).with_context(|| path.display().to_string())?;
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            // words between backquotes and quotation marks are names and quotes
            let prose: Vec<&str> = line.split(['`', '"']).step_by(2).collect();
            let prose = prose.join("`").to_lowercase();
            for (word, instead) in TERMS.iter().filter(|(word, _)| !word.ends_with('_')) {
                if has_word(&prose, word) {
                    let message = format!("`{word}`: the glossary's word is {instead}");
                    found.push(Finding::new(path, index + 1, message));
                }
            }
        }
    }
    Ok(found)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
