//! The memory that a training step may take, and what it therefore computes at once.

use anyhow::Result;
use candle_core::Device;
use mblm::config::{ByteSize, Experiment};
use mblm::model::Chunking;
use mblm::train::{Workload, chunking_for};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::output::{self, grouped};

/// Share of the memory that is free now which a step may take where nobody says how much.
const SHARE_OF_FREE: f64 = 0.95;

/// What a step of the experiment computes at once on this device.
pub(crate) fn chunking(experiment: &Experiment, device: &Device) -> Result<Chunking> {
    let limit = limit(experiment.train.memory, device)?;
    Ok(chunking_for(&Workload::of(experiment, device), limit)?)
}

/// The memory that a step may take: what was asked for, or what a GPU has free; on the CPU there is a rule of its own.
pub(crate) fn limit(asked: Option<ByteSize>, device: &Device) -> Result<Option<u64>> {
    Ok(match asked {
        Some(memory) => Some(memory.as_u64()),
        None => mblm::device::memory(device)?.map(|(free, _)| (free as f64 * SHARE_OF_FREE) as u64),
    })
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

/// Memory of this machine that is available, in bytes.
pub(crate) fn available() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(kind).available_memory()
}
