//! The table of an architecture's stages, as text and for programs.

use std::path::Path;

use mblm::config::Architecture;
use serde_json::{Value, json};

use crate::output::{self, grouped};

/// Describes each stage, for `--json`.
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

/// Prints the table of stages.
pub(crate) fn print(path: &Path, architecture: &Architecture) -> std::io::Result<()> {
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
