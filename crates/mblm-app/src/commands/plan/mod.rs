//! `mblm plan`: the memory of a training step, the chunks that make it fit, and the longest context
//! that would still fit.

pub(crate) mod args;

use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use clap::{ArgMatches, Args};
use mblm::machine::memory::MachineMemory;
use mblm::train::{MemoryEstimate, Workload, longest_context, memory_limit, seconds_per_batch};
use serde_json::json;

use self::args::PlanArgs;
use crate::command::{Command, Context, Section, parse};
use crate::memory;
use crate::output::{self, bytes, grouped};
use crate::{config, device};

/// `mblm plan`.
pub(crate) struct PlanCommand;

impl Command for PlanCommand {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn section(&self) -> Section {
        Section::Models
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        PlanArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &PlanArgs, context: &Context) -> Result<ExitCode> {
    let experiment = config::read(&args.config, &args.overrides, context)?;
    let device = match args.gpu {
        true => None,
        false => Some(device::open(&args.device)?),
    };
    let asked = args.memory.or(experiment.train.memory);
    let here = device.as_ref().unwrap_or(&Device::Cpu);
    let work = Workload {
        gpu: args.gpu || !here.is_cpu(),
        ..Workload::of(&experiment, here)
    };
    let limit = memory_limit(asked, here)?;
    let memory = limit.unwrap_or_else(|| MachineMemory::now().available);
    let work = work.fitted(limit)?;
    let estimate = MemoryEstimate::of(&work);
    let batch = (work.batch_size * work.len).max(1) as u64;
    let per_byte = estimate.total().saturating_sub(estimate.parameters + estimate.driver) as f64 / batch as f64;
    let longest = longest_context(&work, memory);
    let seconds = device.as_ref().and_then(|device| seconds_per_batch(&work, device));
    if args.json {
        let consumers: Vec<_> = estimate
            .consumers()
            .iter()
            .map(|(what, bytes, settings)| json!({ "what": what, "bytes": bytes, "settings": settings }))
            .collect();
        output::json(json!({
            "memory_bytes": estimate.total(), "limit_bytes": memory, "consumers": consumers,
            "bytes_per_byte_of_context": per_byte, "first_stage_portion": work.chunking.positions,
            "rows_of_other_stages": work.chunking.rows, "seconds_per_batch": seconds, "longest_context": longest,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{}: batches of {} × {} bytes",
        args.config.display(),
        work.batch_size,
        grouped(work.len as u64)
    ))?;
    output::line(&format!(
        "about {} of {} at the peak, {per_byte:.1} bytes of memory per byte of context, plus the model",
        bytes(estimate.total()),
        bytes(memory)
    ))?;
    for (what, size, settings) in estimate.consumers() {
        output::line(&format!("  {what:<34} {:>12}   {settings}", bytes(size)))?;
    }
    memory::print_chunks(&work)?;
    if let Some(seconds) = seconds {
        output::line(&format!(
            "about {seconds:.1} s per batch, at half the speed of a matrix product on {}",
            device::name(here)
        ))?;
    }
    match longest {
        Some(longest) => output::line(&format!(
            "the longest context that fits, with a batch of one sample: {} bytes",
            grouped(longest as u64)
        ))?,
        None => output::line("no longer context fits")?,
    }
    context.suggest(&format!("train {}", args.config.display()));
    Ok(ExitCode::SUCCESS)
}
