//! The memory that a training step may take, and what it therefore computes at once.

use anyhow::Result;
use candle_core::Device;
use mblm::config::Experiment;
use mblm::model::Chunking;
use mblm::train::{Workload, chunking_for, memory_limit};

use crate::output::{self, grouped};

/// What a step of the experiment computes at once on this device.
pub(crate) fn chunking(experiment: &Experiment, device: &Device) -> Result<Chunking> {
    let limit = memory_limit(experiment.train.memory, device)?;
    Ok(chunking_for(&Workload::of(experiment, device), limit)?)
}

/// Says in which chunks a step is computed, if it is not computed at once.
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
