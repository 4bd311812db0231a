//! `mblm inspect`: what a configuration, model folder or weights file holds.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use mblm::checkpoint::{self, Weights};
use mblm::config::Architecture;
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::config;
use crate::output::{self, grouped};

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let path = &args.path;
    let is_yaml = path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    let (architecture, weights) = if is_yaml {
        (Some(config::read(path, &[])?.params.architecture), None)
    } else {
        (checkpoint::architecture_of(path)?, Some(Weights::open(path)?))
    };
    if args.json {
        output::json(json!({
            "path": path,
            "kind": architecture.as_ref().map(Architecture::kind),
            "config": architecture.as_ref().map(Architecture::to_json).transpose()?,
            "stages": architecture.as_ref().map(stages),
            "parameters": architecture.as_ref().map(|architecture| architecture.parameter_counts().total),
            "tensors": weights.as_ref().map(tensors),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match &architecture {
        Some(architecture) => print_architecture(path, architecture)?,
        None => output::line(&format!("{}: weights without a configuration", path.display()))?,
    }
    if let Some(weights) = &weights {
        print_tensors(weights, args.tensors || architecture.is_none())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What each stage is, for `--json` here and in a dry run.
pub(crate) fn stages(architecture: &Architecture) -> Vec<Value> {
    let model = architecture.model();
    let counts = architecture.parameter_counts();
    (0..model.num_stages())
        .map(|stage| {
            json!({
                "block_type": model.block[stage].block_type(),
                "layers": model.num_layers[stage],
                "width": model.hidden_dims[stage],
                "positions": model.seq_lens[stage],
                "bytes_per_position": model.patch_bytes(stage),
                "parameters": counts.per_stage.get(stage),
                "parameters_counted": !counts.uncounted.contains(&stage),
            })
        })
        .collect()
}

/// The table of stages.
pub(crate) fn print_architecture(path: &Path, architecture: &Architecture) -> std::io::Result<()> {
    let model = architecture.model();
    let counts = architecture.parameter_counts();
    output::line(&format!(
        "{}: {} of {} {}, vocabulary {}, context {} bytes",
        path.display(),
        architecture.kind(),
        model.num_stages(),
        if model.num_stages() == 1 { "stage" } else { "stages" },
        model.num_tokens,
        grouped(model.context() as u64)
    ))?;
    output::line(&format!(
        "{:>5}  {:<20} {:>6} {:>6} {:>9} {:>14} {:>14}",
        "stage", "block", "layers", "width", "positions", "bytes/position", "parameters"
    ))?;
    for stage in 0..model.num_stages() {
        let parameters = match counts.uncounted.contains(&stage) {
            true => format!("≥ {}", grouped(counts.per_stage[stage])),
            false => grouped(counts.per_stage[stage]),
        };
        output::line(&format!(
            "{:>5}  {:<20} {:>6} {:>6} {:>9} {:>14} {parameters:>14}",
            stage + 1,
            model.block[stage].block_type(),
            model.num_layers[stage],
            model.hidden_dims[stage],
            model.seq_lens[stage],
            model.patch_bytes(stage),
        ))?;
    }
    output::line(&format!(
        "{:>5}  {:<20} {:>53}",
        "",
        "logits",
        grouped(counts.to_logits)
    ))?;
    output::line(&format!("{:>5}  {:<20} {:>53}", "", "all", grouped(counts.total)))
}

fn tensors(weights: &Weights) -> Vec<Value> {
    let shape = |name| json!({ "name": name, "shape": weights.shape(name), "dtype": dtype(weights, name) });
    weights.names().map(shape).collect()
}

fn dtype(weights: &Weights, name: &str) -> String {
    weights.dtype(name).map_or_else(String::new, |dtype| dtype.to_string())
}

fn print_tensors(weights: &Weights, list: bool) -> std::io::Result<()> {
    let elements = |name: &str| weights.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
    let total: usize = weights.names().map(elements).sum();
    output::line(&format!(
        "{} tensors, {} elements",
        weights.names().len(),
        grouped(total as u64)
    ))?;
    if list {
        for name in weights.names() {
            let shape = format!("{:?}", weights.shape(name).unwrap_or_default());
            output::line(&format!("  {:<8} {shape:<20} {name}", dtype(weights, name)))?;
        }
    }
    Ok(())
}
