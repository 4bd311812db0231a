//! The rule of operations: each has a reference implementation, and `op_test!` compares its kernels
//! with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tree::{Finding, Tree};

const OPERATIONS: &str = "crates/mblm-ops/src";
/// Folders of code that the kernels share.
const SHARED: [&str; 2] = ["cpu", "cuda"];
/// Operations without `op_test!`: `adam` changes its arguments in place and is compared with
/// torch's numbers; `decode` has no gradient, and its own tests compare it with its reference
/// implementation.
const WITHOUT_MACRO: [&str; 2] = ["adam", "decode"];

/// Finds operation folders without a reference implementation or `op_test!`.
pub(crate) fn references(tree: &Tree) -> Result<Vec<Finding>> {
    let mut operations: BTreeSet<PathBuf> = BTreeSet::new();
    for file in &tree.rust {
        let Ok(inside) = file.path.strip_prefix(OPERATIONS) else {
            continue;
        };
        let mut parts = inside.iter();
        if let (Some(folder), Some(_)) = (parts.next(), parts.next()) {
            operations.insert(PathBuf::from(folder));
        }
    }
    let mut found = Vec::new();
    for operation in operations.iter().filter(|name| !is_one_of(name, &SHARED)) {
        let folder = Path::new(OPERATIONS).join(operation);
        let has = |name: &str| tree.rust.iter().any(|file| file.path == folder.join(name));
        for name in ["mod.rs", "reference.rs"] {
            if !has(name) {
                found.push(Finding::new(&folder, 1, format!("the operation lacks {name}")));
            }
        }
        let mut files = tree.rust.iter().filter(|file| file.path.starts_with(&folder));
        let is_tested = files.any(|file| file.text.contains("op_test!"));
        if !is_tested && !is_one_of(operation, &WITHOUT_MACRO) {
            found.push(Finding::new(
                &folder,
                1,
                "the operation lacks op_test!, which compares it with its reference",
            ));
        }
    }
    Ok(found)
}

fn is_one_of(name: &Path, names: &[&str]) -> bool {
    names.iter().any(|other| name == Path::new(other))
}
