//! The files of the repository, and Rust files with their syntax trees.
//!
//! Build folders, runs and the outputs of fuzzing are not part of the tree. Test code is
//! recognized: files of integration tests, files behind `#[cfg(test)] mod …;`, and items behind
//! `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use walkdir::WalkDir;

/// Folders that contain no sources.
const NOT_SOURCES: [&str; 8] = [
    ".git",
    "target",
    "runs",
    "fuzz/target",
    "fuzz/corpus",
    "fuzz/artifacts",
    "data/clevr-synth",
    "docs/book",
];

/// The sources of the repository.
pub(crate) struct Tree {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// All files, relative to the root, in order.
    pub(crate) files: Vec<PathBuf>,
    /// The Rust files below `crates` and `fuzz`.
    pub(crate) rust: Vec<RustFile>,
}

/// A Rust file.
pub(crate) struct RustFile {
    /// Relative to the repository's root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    /// Whether the whole file is test code.
    pub(crate) is_test: bool,
}

/// A violation of a rule.
pub(crate) struct Finding {
    /// Relative to the repository's root.
    pub(crate) path: PathBuf,
    /// The line number, from 1.
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_path_buf(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

impl Tree {
    /// Reads the tree below `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let is_source = |path: &Path| !NOT_SOURCES.iter().any(|folder| path == Path::new(folder));
        let mut files = Vec::new();
        let entries = WalkDir::new(root).sort_by_file_name().into_iter();
        let entries = entries.filter_entry(|entry| entry.path().strip_prefix(root).is_ok_and(is_source));
        for entry in entries {
            let entry = entry?;
            if entry.file_type().is_file() {
                files.push(entry.path().strip_prefix(root)?.to_path_buf());
            }
        }
        let mut rust = Vec::new();
        for path in &files {
            let is_rust = path.extension().is_some_and(|extension| extension == "rs");
            if is_rust && (path.starts_with("crates") || path.starts_with("fuzz")) {
                rust.push(RustFile::read(root, path)?);
            }
        }
        let mut tree = Self {
            root: root.to_path_buf(),
            files,
            rust,
        };
        tree.mark_tests();
        Ok(tree)
    }

    /// Marks the files that contain only test code.
    fn mark_tests(&mut self) {
        let mut tests = BTreeSet::new();
        for file in &self.rust {
            for module in child_modules(&file.syntax.items) {
                if is_test_only(&module.attrs) {
                    tests.extend(module_files(&file.path, &module.ident.to_string()));
                }
            }
        }
        for file in &mut self.rust {
            let in_folder = |name: &str| file.path.components().any(|part| part.as_os_str() == name);
            let below_a_test = file
                .path
                .ancestors()
                .any(|folder| tests.contains(&folder.with_extension("rs")));
            file.is_test = tests.contains(&file.path) || in_folder("tests") || below_a_test;
        }
    }

    /// Returns the Rust files of the crates' `src` folders, without test files.
    pub(crate) fn production(&self) -> impl Iterator<Item = &RustFile> {
        self.rust
            .iter()
            .filter(|file| !file.is_test && file.crate_name().is_some())
    }

    /// Counts the lines of each crate without its tests.
    pub(crate) fn lines_by_crate(&self) -> BTreeMap<&str, usize> {
        let mut lines = BTreeMap::new();
        for file in self.production() {
            *lines.entry(file.crate_name().unwrap_or_default()).or_insert(0) += file.production_lines();
        }
        lines
    }
}

impl RustFile {
    fn read(root: &Path, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
        let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_path_buf(),
            text,
            syntax,
            is_test: false,
        })
    }

    /// The name of the folder of the crate whose `src` contains the file.
    pub(crate) fn crate_name(&self) -> Option<&str> {
        let mut parts = self.path.iter().filter_map(|part| part.to_str());
        match (parts.next(), parts.next(), parts.next()) {
            (Some("crates"), Some(name), Some("src")) => Some(name),
            _ => None,
        }
    }

    /// The `//!` paragraphs at the top of the file.
    pub(crate) fn header(&self) -> String {
        let lines = self.text.lines().take_while(|line| line.starts_with("//!"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The lines of test-only items, from 1.
    pub(crate) fn test_lines(&self) -> BTreeSet<usize> {
        let mut lines = BTreeSet::new();
        for item in &self.syntax.items {
            if is_test_only(attributes(item)) {
                lines.extend(item.span().start().line..=item.span().end().line);
            }
        }
        lines
    }

    /// The number of lines that are not test-only.
    pub(crate) fn production_lines(&self) -> usize {
        match self.is_test {
            true => 0,
            false => self.text.lines().count() - self.test_lines().len(),
        }
    }

    /// The lines that are not test-only, with their numbers.
    pub(crate) fn production_text(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.test_lines();
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(move |(number, _)| !self.is_test && !tests.contains(number))
    }
}

/// The modules that these items declare in separate files.
pub(crate) fn child_modules(items: &[syn::Item]) -> impl Iterator<Item = &syn::ItemMod> {
    items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() => Some(module),
        _ => None,
    })
}

/// The two possible files of the module `name` of the file `parent`.
pub(crate) fn module_files(parent: &Path, name: &str) -> [PathBuf; 2] {
    let stem = parent.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let folder = match stem {
        "mod" | "lib" | "main" => parent.with_file_name(""),
        _ => parent.with_extension(""),
    };
    [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]
}

/// Whether attributes make an item test-only: `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]`.
pub(crate) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test")
        }
        _ => false,
    })
}

/// Returns an item's attributes.
pub(crate) fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
