//! How much memory a training run needs, estimated from its configuration.
//!
//! Weights, gradients and two moments make 16 bytes a parameter. Activations are kept for one group of sequences of each
//! stage at a time (all sequences of a group of samples in the first), so their rows are counted per group.

use crate::config::{BlockConfig, Experiment, MambaConfig, ModelConfig, TransformerConfig};
use crate::model::group_rows;

/// Bytes of an element.
const FLOAT: u64 = 4;
/// Weights, gradients, two moments.
const COPIES: u64 = 4;
/// Memory that a layer's backward pass needs beside what is saved, as a share of what one layer saves.
const TEMPORARY_LAYERS: u64 = 1;

/// Bytes that training with this configuration takes, without the program itself.
pub fn estimate_memory(experiment: &Experiment) -> u64 {
    let architecture = &experiment.params.architecture;
    let model = architecture.model();
    let parameters = architecture.parameter_counts().total * COPIES * FLOAT;
    let samples = experiment.train.batch_size;
    let padded = experiment.params.input_seq_len.next_multiple_of(model.patch_bytes(0));
    let mut activations = 0;
    for stage in 0..model.num_stages() {
        let positions = match stage {
            0 => padded / model.patch_bytes(0),
            _ => model.seq_lens[stage],
        };
        let sequences = samples * padded / (positions * model.patch_bytes(stage)).max(1);
        let chunks = model.train_checkpoint_chunks.as_ref().filter(|_| stage > 0);
        let group = match chunks {
            Some(chunks) => sequences.div_ceil(chunks[stage - 1]),
            None => group_rows(positions) / positions.max(1),
        };
        let rows = (group.clamp(1, sequences.max(1)) * positions) as u64;
        activations += rows * row(model, stage, positions) * FLOAT;
    }
    parameters + activations
}

/// Floats that one row of a stage keeps.
fn row(model: &ModelConfig, stage: usize, positions: usize) -> u64 {
    let dim = model.hidden_dims[stage] as u64;
    let layers = model.num_layers[stage] as u64 + TEMPORARY_LAYERS;
    let local = model.num_stages() - 1;
    let layer = match &model.block[stage] {
        BlockConfig::Transformer(config) | BlockConfig::TransformerEncoder(config) => {
            transformer(config, dim, positions)
        }
        BlockConfig::Mamba2(config) => mamba2(config, dim),
        BlockConfig::Mamba1(config) => mamba1(config, dim),
        // what a custom block keeps is its own secret: its input, and a guess at one layer's graph
        BlockConfig::Custom(_) => 16 * dim,
    };
    let edges = if stage == local {
        3 * model.num_tokens as u64
    } else {
        let patch = model.patch_bytes(stage) as u64 * model.hidden_dims[local] as u64;
        3 * patch + (model.seq_lens[stage + 1] * model.hidden_dims[stage + 1]) as u64
    };
    layers * layer + edges + 6 * dim
}

fn transformer(config: &TransformerConfig, dim: u64, positions: usize) -> u64 {
    let width = (config.attn_num_heads * config.attn_head_dims) as u64;
    // residuals and norms; q, [k | v], its rotated copy, the attended values; the inner activations
    let short = if positions <= 64 {
        (config.attn_num_heads * positions) as u64
    } else {
        0
    };
    4 * dim + 6 * width + short + 2 * config.ff_multiplier as u64 * dim
}

fn mamba2(config: &MambaConfig, dim: u64) -> u64 {
    let inner = config.expand as u64 * dim;
    let mixed = inner + 2 * config.d_state as u64;
    2 * dim + 3 * inner + 2 * mixed + inner / config.headdim.max(1) as u64
}

fn mamba1(config: &MambaConfig, dim: u64) -> u64 {
    2 * dim + 5 * config.expand as u64 * dim + 2 * config.d_state as u64 + dim.div_ceil(16)
}
