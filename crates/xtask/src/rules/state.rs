//! Rules of state: no mutable globals, and no file writes outside the modules that write
//! atomically.

use std::path::Path;

use anyhow::Result;

use crate::tree::{Finding, RustFile, Tree, is_test_only};

/// The files that may write: atomically, in whole rows, and in whole folders.
const WRITERS: [&str; 4] = [
    "crates/mblm/src/checkpoint/atomic.rs",
    "crates/mblm/src/checkpoint/append.rs",
    "crates/mblm/src/checkpoint/tree.rs",
    "crates/mblm-group/src/rendezvous.rs",
];
/// Calls that write files.
const WRITES: [&str; 4] = ["File::create", "fs::write", "OpenOptions", "fs::rename"];
/// Types of statics that can change, or that are initialized lazily.
const CHANGING: [&str; 9] = [
    "Mutex",
    "RwLock",
    "RefCell",
    "Cell",
    "OnceCell",
    "LazyLock",
    "LazyCell",
    "Atomic",
    "UnsafeCell",
];

/// Finds mutable statics and thread locals. A `OnceLock` is allowed, for facts about the machine
/// such as its processor's features; so is the program's allocator, which must be a static.
pub(crate) fn globals(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for file in library_files(tree) {
        for (number, line) in file.production_text() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            let is_static = ["static ", "pub static ", "pub(crate) static ", "pub(super) static "]
                .iter()
                .any(|start| code.starts_with(start));
            let kind = code.split(':').nth(1).unwrap_or_default();
            let changes = code.contains("static mut ") || is_static && CHANGING.iter().any(|name| kind.contains(name));
            if changes || code.contains("thread_local!") {
                found.push(Finding::new(
                    &file.path,
                    number,
                    "a global that changes: pass the value along instead",
                ));
            }
        }
    }
    Ok(found)
}

/// Finds file writes outside `checkpoint::atomic`, `append` and `tree`.
pub(crate) fn direct_writes(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let files = library_files(tree).filter(|file| !WRITERS.iter().any(|writer| file.path == Path::new(writer)));
    for file in files {
        for (number, line) in file.production_text() {
            if !line.trim_start().starts_with("//") && WRITES.iter().any(|call| line.contains(call)) {
                let message =
                    "writes a file: use checkpoint::atomic, append or tree, so that a crash leaves a whole one";
                found.push(Finding::new(&file.path, number, message));
            }
        }
    }
    Ok(found)
}

/// Returns production files except this tool's and test helpers. This tool has no state to lose.
fn library_files(tree: &Tree) -> impl Iterator<Item = &RustFile> {
    let is_library = |file: &&RustFile| file.crate_name() != Some("xtask") && !is_test_only(&file.syntax.attrs);
    tree.production()
        .filter(is_library)
        .filter(|file| !file.path.ends_with("testing.rs"))
}
