//! The files that a path stands for: the file itself, or all files below the folder in name order.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::checkpoint::is_output;
use crate::{Error, Result};

/// Returns the regular files of `root` and its subfolders, without hidden files (`.name`). Folders
/// of training runs and saved models ([`is_output`]) are skipped with a warning.
///
/// Each folder is read in the byte order of its names, a subfolder in the order of its own name.
/// Links are followed.
///
/// # Errors
/// The path is missing, is neither file nor folder, cannot be listed, or holds no file.
pub fn regular_files(root: &Path) -> Result<Vec<PathBuf>> {
    let metadata = root.metadata().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if root == Path::new("-") => Error::file(
            root,
            "stdin can be read only once, but a data set is read many times, at any offset; write it to a file first: \
             `… > data.txt`",
        ),
        std::io::ErrorKind::NotFound => Error::file(root, "no such file or folder; expected the data set here"),
        _ => Error::file(root, error),
    })?;
    if metadata.is_file() {
        return Ok(vec![root.to_path_buf()]);
    }
    if !metadata.is_dir() {
        return Err(Error::file(
            root,
            "expected a regular file or a folder, found a pipe or a device, which can be read only once; write it to a file first: \
             `… > data.txt`",
        ));
    }
    let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let (mut files, mut runs) = (Vec::new(), Vec::new());
    let entries = WalkDir::new(root)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            let is_run = entry.depth() > 0 && entry.file_type().is_dir() && is_output(entry.path());
            if is_run {
                runs.push(entry.path().to_path_buf());
            }
            entry.depth() == 0 || !hidden(entry.file_name()) && !is_run
        });
    for entry in entries {
        let entry = entry.map_err(|error| Error::file(error.path().unwrap_or(root), &error))?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        } else if !entry.file_type().is_dir() {
            tracing::warn!("{}: not a regular file, skipped", entry.path().display());
        }
    }
    if let [first, ..] = &runs[..] {
        let count = runs.len();
        tracing::warn!(
            "{}: ignored, because outputs of training runs are not data ({count} folders of runs in {})",
            first.display(),
            root.display()
        );
    }
    if files.is_empty() {
        return Err(Error::file(
            root,
            "the folder has no files (hidden files are ignored); expected the data set here",
        ));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_names_without_hidden_ones() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["b/x", "a2", "a10", "b/.hidden", ".git/config", "c", "B"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        let found: Vec<_> = regular_files(folder.path())
            .unwrap()
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(found, ["B", "a10", "a2", "b/x", "c"]);
    }

    #[test]
    fn what_runs_write_is_no_data() {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "a.txt",
            "config.yaml",
            "runs/t_1/config.yaml",
            "runs/t_1/loss.csv",
            "runs/t_1/plot.svg",
            "runs/t_1/models/batch_1/config.json",
            "runs/t_2/config.yaml",
            "runs/t_2/states/batch_1/model.safetensors",
            "saved/model.safetensors",
            "saved/SHA256SUMS",
            "mine/config.yaml",
            "mine/text",
            "weights/model.safetensors",
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        let found = regular_files(folder.path()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(
            found,
            [
                "a.txt",
                "config.yaml",
                "mine/config.yaml",
                "mine/text",
                "weights/model.safetensors"
            ]
        );
        // the given path is read in any case
        assert!(regular_files(&folder.path().join("runs/t_1")).is_ok());
    }

    #[test]
    fn a_file_stands_for_itself_even_when_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".notes");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(regular_files(&path).unwrap(), [path]);
    }

    #[test]
    fn a_missing_path_and_an_empty_folder_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let message = regular_files(folder.path()).unwrap_err().to_string();
        assert!(message.contains("the folder has no files"), "{message}");
        let message = regular_files(&folder.path().join("missing")).unwrap_err().to_string();
        assert!(message.contains("missing: no such file or folder"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn sockets_are_skipped_and_loops_of_links_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "text").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(regular_files(folder.path()).unwrap(), [folder.path().join("a")]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        let message = regular_files(folder.path()).unwrap_err().to_string();
        assert!(message.contains("loop"), "{message}");
    }
}
