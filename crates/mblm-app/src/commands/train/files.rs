//! The log files of a run: those of the run, and the loss files of its other workers.

use anyhow::Result;
use candle_core::Device;
use mblm::config::Experiment;
use mblm::train::outputs::{RunFiles, RunFilesOptions};
use mblm::train::{FileLengths, RunConfig};

use crate::command::Context;
use crate::output;
use crate::run_folder::RunFolder;

/// Opens the log files of the run: new ones, or existing ones truncated to the resumed state.
pub(super) fn run_files(experiment: &Experiment, folder: &RunFolder, device: &Device) -> Result<RunFiles> {
    Ok(files_of(folder, RunFilesOptions::from(&RunConfig::from(experiment)))?.on(device))
}

/// Opens the loss files of the workers after the first that `io.enabled_loss_log_for_gpus` names.
pub(super) fn other_workers_files(experiment: &Experiment, folder: &RunFolder) -> Result<Vec<RunFiles>> {
    let config = RunConfig::from(experiment);
    (1..experiment.train.worker_count())
        .map(|worker| RunFilesOptions::of_worker(&config, worker))
        .filter(|options| options.losses)
        .map(|options| files_of(folder, options))
        .collect()
}

fn files_of(folder: &RunFolder, options: RunFilesOptions) -> Result<RunFiles> {
    Ok(match (&folder.state, folder.resumed) {
        (Some(saved), _) => RunFiles::resume(&folder.path, &saved.state.files, options)?,
        (None, true) => RunFiles::resume(&folder.path, &FileLengths::new(), options)?,
        (None, false) => RunFiles::create(&folder.path, options)?,
    })
}

/// Writes lines to `train.log`, and to stderr unless `--quiet` is set.
pub(super) fn introduce(files: &mut RunFiles, lines: impl Iterator<Item = String>, context: &Context) {
    for line in lines {
        files.note(&line);
        if !context.quiet() {
            output::note(&line);
        }
    }
}
