//! Training data from stdin. They are copied to a file, since training reads them many times and at
//! random positions.
//!
//! The copy is `OUT/stdin_<seconds>_<process>.data`, in the output folder beside the run. The run's
//! configuration names the copy. The copy is removed if the run does not start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mblm::checkpoint::atomic;
use mblm::config::IoConfig;

use crate::output::{bytes, note};
use crate::usage::Usage;

/// The data path that means stdin.
const STDIN: &str = "-";

/// The copy of the data from stdin.
pub(super) struct PipedData {
    path: PathBuf,
    /// The output folder, if it was created for the copy.
    folder: Option<PathBuf>,
    kept: bool,
}

impl PipedData {
    /// Copies stdin if `io.dataset_dir` is `-`, and sets `io.dataset_dir` to the copy; `None` for
    /// other data.
    ///
    /// # Errors
    /// Stdin is empty, or the copy cannot be written.
    pub(super) fn read(io: &mut IoConfig, quiet: bool) -> Result<Option<Self>> {
        if io.dataset_dir != Path::new(STDIN) {
            return Ok(None);
        }
        let folder = &io.output_dir;
        let is_new = !folder.exists();
        atomic::make_folder(folder)?;
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let path = folder.join(format!("stdin_{seconds}_{}.data", std::process::id()));
        let data = Self {
            folder: is_new.then(|| folder.clone()),
            path,
            kept: false,
        };
        let mut count = 0;
        atomic::write(&data.path, |copy| {
            count = io::copy(&mut io::stdin().lock(), copy)?;
            Ok(())
        })?;
        if count == 0 {
            return Err(Usage("the data are stdin (`-`), but no bytes came through it".into()).into());
        }
        if !quiet {
            note(&format!(
                "{} from stdin are kept in {}",
                bytes(count),
                data.path.display()
            ));
        }
        io.dataset_dir.clone_from(&data.path);
        Ok(Some(data))
    }

    /// Keeps the copy for the run.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for PipedData {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // a failure to remove the file is ignored
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}
