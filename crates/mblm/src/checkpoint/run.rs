//! The location of models and states in a run's folder; [`layout`](super::layout) has the names.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::layout::{CONFIG_FILE, INDEX_FILE, MODELS, STATES};
use crate::{Error, Result};

/// The prefix of the folders' names, followed by the number of batches.
const PREFIX: &str = "batch_";

#[derive(Deserialize)]
struct Listed {
    folder: PathBuf,
}

/// Returns the name of the folder for a model trained on `batches` batches.
pub(crate) fn batch_folder(batches: u64) -> String {
    format!("{PREFIX}{batches}")
}

/// Returns the batch folders in `parent` with their batches, fewest first; none without a `parent`.
pub(crate) fn batch_folders(parent: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |error: io::Error| Error::file(parent, error);
    let entries = match std::fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let batches = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(batches) = batches {
            folders.push((batches, entry.path()));
        }
    }
    folders.sort();
    Ok(folders)
}

/// Returns a run's best model or else its newest state; `path` itself if it is no run's folder.
pub(crate) fn model_folder(path: &Path) -> PathBuf {
    if path.join(CONFIG_FILE).exists() {
        return path.to_path_buf();
    }
    best(path)
        .or_else(|| newest_state(path))
        .unwrap_or_else(|| path.to_path_buf())
}

fn best(run: &Path) -> Option<PathBuf> {
    let models = run.join(MODELS);
    let index = std::fs::read(models.join(INDEX_FILE)).ok()?;
    let listed: Vec<Listed> = serde_json::from_slice(&index).ok()?;
    Some(models.join(&listed.first()?.folder))
}

fn newest_state(run: &Path) -> Option<PathBuf> {
    let (_, folder) = batch_folders(&run.join(STATES)).ok()?.pop()?;
    Some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_for_its_best_model_else_for_its_newest_state() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        assert_eq!(model_folder(run), run);
        for name in [
            "states/batch_9",
            "states/batch_10",
            "states/.batch_11.new.tmp",
            "states/other",
            "models/batch_3",
        ] {
            std::fs::create_dir_all(run.join(name)).unwrap();
        }
        assert_eq!(model_folder(run), run.join("states/batch_10"));
        std::fs::write(
            run.join("models").join(INDEX_FILE),
            r#"[{"folder": "batch_3", "batches": 3}]"#,
        )
        .unwrap();
        assert_eq!(model_folder(run), run.join("models/batch_3"));
        for damaged in ["", "[]", "{}", "[3]"] {
            std::fs::write(run.join("models").join(INDEX_FILE), damaged).unwrap();
            assert_eq!(model_folder(run), run.join("states/batch_10"), "{damaged}");
        }
        std::fs::write(run.join(CONFIG_FILE), "").unwrap();
        assert_eq!(model_folder(run), run, "a model folder stands for itself");
    }
}
