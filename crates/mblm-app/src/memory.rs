//! The memory that a training step may take, and what it therefore computes at once.

use anyhow::Result;
use candle_core::Device;
use mblm::config::Experiment;
use mblm::machine::memory::MachineMemory;
use mblm::model::Chunking;
use mblm::train::{MemoryEstimate, Workload, chunking_for, memory_limit};

use crate::device;
use crate::output::{self, bytes, grouped};

/// What a step of the experiment computes at once on this device.
pub(crate) fn chunking(experiment: &Experiment, device: &Device) -> Result<Chunking> {
    let limit = memory_limit(experiment.train.memory, device)?;
    Ok(chunking_for(&Workload::of(experiment, device), limit)?)
}

/// Fails for a model that this machine cannot hold in training, before anything is made.
pub(crate) fn check_room(experiment: &Experiment, device: &Device) -> Result<()> {
    let needed = MemoryEstimate::of(&Workload::of(experiment, device)).parameters;
    let there = match mblm::device::memory(device)? {
        Some((_, total)) => total as u64,
        None => MachineMemory::now().total.min(address_space()),
    };
    match needed > there {
        false => Ok(()),
        true => Err(mblm::Error::OutOfMemory(format!(
            "{} parameters with gradients and optimizer need {}, but there are {} on {}: lower params.hidden_dims or params.num_layers; \
             `mblm plan` shows what fits",
            grouped(experiment.params.architecture.parameter_counts().total),
            bytes(needed),
            bytes(there),
            device::name(device)
        ))
        .into()),
    }
}

/// The most memory that this process may have by its limits (`ulimit -v`), in bytes.
fn address_space() -> u64 {
    #[cfg(unix)]
    {
        // SAFETY: all zeros is a value of this plain struct, which the call fills
        unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            if libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) == 0 {
                return limit.rlim_cur as u64;
            }
        }
    }
    u64::MAX
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
