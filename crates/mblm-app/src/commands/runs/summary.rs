//! Summarizes a run from its folder: configuration, progress, losses.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use mblm::checkpoint::{RUN_CONFIG, atomic};
use mblm::config::{Experiment, IoConfig};
use mblm::train::outputs::{LOSS_FILE, LossKind, LossRow, read_losses};
use serde_json::{Value, json};

use crate::command::Context;
use crate::config;

/// The status of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// A process is training it.
    Running,
    /// It has trained on its target number of bytes.
    Done,
    /// It can be resumed.
    Stopped,
    /// It ended with an error.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

/// The summary of a run.
pub(super) struct RunSummary {
    pub(super) folder: PathBuf,
    pub(super) io: IoConfig,
    /// `None` for runs that train no byte model.
    pub(super) experiment: Option<Experiment>,
    pub(super) status: Status,
    /// Bytes trained on; `None` before the first row of losses.
    pub(super) seen: Option<u64>,
    /// The target number of bytes.
    pub(super) target: Option<u64>,
    /// The lowest loss on held-out data so far, in bits.
    pub(super) best: Option<f64>,
    /// The loss on test data, in bits.
    pub(super) test: Option<f64>,
    /// The unit over which losses are averaged: `byte`.
    pub(super) unit: String,
    /// The time at which its files were last written.
    pub(super) written: SystemTime,
}

impl RunSummary {
    /// Reads the folder of a run.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub(super) fn read(folder: &Path, context: &Context) -> Result<Self> {
        let path = folder.join(RUN_CONFIG);
        let (io, experiment, unit) = match context.run_kind(&path) {
            Some(kind) => (kind.data(&path, &[], context)?, None, kind.unit().to_string()),
            None => {
                let experiment = config::read(&path, &[], context)?;
                (experiment.io.clone(), Some(experiment), "byte".into())
            }
        };
        // a run that has just started has no losses yet
        let rows = read_losses(&folder.join(LOSS_FILE))
            .map(|log| log.rows)
            .unwrap_or_default();
        let seen = rows.iter().filter_map(|row| row.elements_seen).max();
        let target = experiment.as_ref().map(|experiment| experiment.train.target_elements);
        let failed = |experiment: &Experiment| {
            experiment
                .summary
                .as_ref()
                .is_some_and(|summary| summary.error.is_some())
        };
        let tested = rows.iter().any(|row| row.kind == LossKind::Test);
        let status = match () {
            () if atomic::is_locked(folder) => Status::Running,
            () if tested || seen.zip(target).is_some_and(|(seen, target)| seen >= target) => Status::Done,
            () if experiment.as_ref().is_some_and(failed) => Status::Failed,
            () => Status::Stopped,
        };
        let written = [LOSS_FILE, RUN_CONFIG].into_iter().filter_map(|name| {
            let metadata = folder.join(name).metadata().ok()?;
            metadata.modified().ok()
        });
        Ok(Self {
            best: lowest(&rows, LossKind::Validation),
            test: lowest(&rows, LossKind::Test),
            written: written.max().unwrap_or(SystemTime::UNIX_EPOCH),
            folder: folder.to_path_buf(),
            io,
            experiment,
            status,
            seen,
            target,
            unit,
        })
    }

    /// Returns the summary as JSON.
    pub(super) fn json(&self) -> Value {
        let age = SystemTime::now()
            .duration_since(self.written)
            .map_or(0, |age| age.as_secs());
        json!({
            "run": self.folder, "name": self.io.name_model, "data": self.io.dataset_dir, "dataset": self.io.dataset_id,
            "status": self.status.to_string(), "bytes_seen": self.seen, "bytes_in_all": self.target,
            "unit": self.unit, "best_bits": self.best, "test_bits": self.test, "age_seconds": age,
        })
    }
}

/// The lowest loss of this kind, in bits.
fn lowest(rows: &[LossRow], kind: LossKind) -> Option<f64> {
    let losses = rows.iter().filter(|row| row.kind == kind && row.loss.is_finite());
    losses
        .map(|row| row.loss / std::f64::consts::LN_2)
        .min_by(f64::total_cmp)
}
