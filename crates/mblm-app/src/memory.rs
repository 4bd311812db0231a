//! The memory limit of a training step, and the chunks that follow from it.

use anyhow::Result;
use candle_core::Device;
use mblm::config::Experiment;
use mblm::model::Chunking;
use mblm::train::{Workload, chunking_for, memory_limit};

use crate::output::{self, grouped};

/// Returns the chunks in which a step of the experiment is computed on this device.
pub(crate) fn chunking(experiment: &Experiment, device: &Device) -> Result<Chunking> {
    let limit = memory_limit(experiment.train.memory, device)?;
    Ok(chunking_for(&Workload::of(experiment, device), limit)?)
}

/// Logs the chunks in which a step is computed, unless the step is computed at once.
pub(crate) fn print_chunks(work: &Workload<'_>) -> std::io::Result<()> {
    if let Some(positions) = work.chunking.positions {
        let all = work.positions();
        output::line(&format!(
            "the first stage goes in {} chunks of {} of its {} positions, forward twice",
            all.div_ceil(positions),
            grouped(positions as u64),
            grouped(all as u64)
        ))?;
    }
    if let Some(rows) = work.chunking.rows {
        output::line(&format!(
            "the other stages go in groups of {} rows",
            grouped(rows as u64)
        ))?;
    }
    Ok(())
}
