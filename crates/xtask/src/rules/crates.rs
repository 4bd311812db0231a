//! Rules of structure: no import cycles between the files of a crate, no upward dependencies
//! between crates.

use std::path::Path;

use anyhow::Result;

use crate::modules::{Crate, cycles};
use crate::tree::{Finding, Tree};

/// The project's crates, each with its allowed dependencies.
const LAYERS: [(&str, &[&str]); 8] = [
    ("mblm-gemm", &[]),
    ("mblm-ops", &["mblm-gemm"]),
    ("mblm-formats", &[]),
    ("mblm-group", &[]),
    ("mblm", &["mblm-ops", "mblm-gemm", "mblm-formats", "mblm-group"]),
    ("mblm-app", &["mblm", "mblm-formats"]),
    ("mblm-vision", &["mblm", "mblm-app"]),
    ("mblm-cli", &["mblm", "mblm-app", "mblm-vision"]),
];

/// Finds files that import from each other in a cycle.
pub(crate) fn import_cycles(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for file in &tree.rust {
        let is_root = ["lib.rs", "main.rs"]
            .iter()
            .any(|name| file.path.ends_with(Path::new("src").join(name)));
        if !is_root {
            continue;
        }
        let dependencies = Crate::read(tree, &file.path).dependencies();
        for group in cycles(&dependencies) {
            for from in &group {
                let into = dependencies[from].iter().filter(|(to, _)| group.contains(to));
                let names: Vec<String> = into
                    .clone()
                    .map(|(to, line)| format!("{} (line {line})", to.display()))
                    .collect();
                let line = into.map(|(_, line)| *line).min().unwrap_or(1);
                found.push(Finding::new(
                    from,
                    line,
                    format!("in a circle of {} files with {}", group.len(), names.join(", ")),
                ));
            }
        }
    }
    Ok(found)
}

/// Finds dependencies between the project's crates that are not in [`LAYERS`].
pub(crate) fn upward_dependencies(tree: &Tree) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (name, allowed) in LAYERS {
        let path = Path::new("crates").join(name).join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(tree.root.join(&path)) else {
            continue;
        };
        let mut in_dependencies = false;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies]") && !line.contains("dev-dependencies");
            }
            let key = line.split(['.', '=', ' ']).next().unwrap_or_default();
            let ours = LAYERS.iter().any(|(other, _)| *other == key);
            if in_dependencies && ours && !allowed.contains(&key) {
                found.push(Finding::new(
                    &path,
                    index + 1,
                    format!("{name} may not depend on {key}: dependencies point down"),
                ));
            }
        }
    }
    Ok(found)
}
