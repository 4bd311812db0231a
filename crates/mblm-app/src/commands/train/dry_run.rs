//! `mblm train --dry-run`: the plan of a run, without training.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use mblm::config::Experiment;
use mblm::model::Chunking;
use mblm::train::{MemoryEstimate, RunPlan, TrainingData, Workload};
use serde_json::json;

use super::args::TrainArgs;
use crate::command::Context;
use crate::output::{self, bytes, grouped};
use crate::{architecture, device, memory, progress};

/// Prints the plan of a run without training.
pub(super) fn run(
    args: &TrainArgs,
    experiment: &Experiment,
    device: &Device,
    chunking: Chunking,
    context: &Context,
) -> Result<ExitCode> {
    let architecture = &experiment.params.architecture;
    let plan = RunPlan::new(&experiment.train, experiment.params.input_seq_len);
    let step_bytes =
        (experiment.train.batch_size * experiment.params.input_seq_len) as u64 * experiment.train.grad_accum as u64;
    let work = Workload {
        chunking,
        ..Workload::of(experiment, device)
    };
    let memory = MemoryEstimate::of(&work);
    if args.json {
        output::json(json!({
            "kind": architecture.kind(), "stages": architecture::stages(architecture),
            "parameters": architecture.parameter_counts().total, "batches": plan.batches, "steps": plan.steps,
            "bytes_per_step": step_bytes, "memory_bytes": memory.total(), "parameter_memory_bytes": memory.parameters,
            "stage_memory_bytes": memory.stages, "first_stage_portion": chunking.positions,
        }))?;
        return check_data_there(experiment, context);
    }
    let name = args
        .config
        .clone()
        .unwrap_or_else(|| PathBuf::from(&experiment.io.name_model));
    architecture::print(&name, architecture)?;
    output::line(&format!(
        "{} batches, {} gradient steps of {} bytes each",
        grouped(plan.batches),
        grouped(plan.steps),
        grouped(step_bytes)
    ))?;
    let largest: Vec<String> = memory
        .consumers()
        .iter()
        .map(|(what, size, _)| format!("{what} {}", bytes(*size)))
        .collect();
    output::line(&format!(
        "about {} of memory on {}: {}",
        bytes(memory.total()),
        device::name(device),
        largest.join(", ")
    ))?;
    memory::print_chunks(&work)?;
    check_data_there(experiment, context)
}

/// Fails if the data cannot be opened; called after everything else has been printed.
fn check_data_there(experiment: &Experiment, context: &Context) -> Result<ExitCode> {
    let on_opening = progress::opening_bar(context.quiet());
    TrainingData::open(experiment, context.tasks(), on_opening)?;
    Ok(ExitCode::SUCCESS)
}
