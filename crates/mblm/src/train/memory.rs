//! How much memory a training run needs, estimated from its configuration.
//!
//! Weights, gradients and two moments make 16 bytes a parameter. Activations are kept for one group of sequences of each
//! stage at a time (all sequences of a group of samples in the first), so their rows are counted per group.

use candle_core::Device;

use crate::config::{BlockConfig, Experiment, MambaConfig, ModelConfig, TransformerConfig};
use crate::model::group_size;

/// Bytes of an element.
const FLOAT: f64 = 4.0;
/// Weights, gradients, two moments.
const COPIES: f64 = 4.0;
/// Memory that a layer's backward pass needs beside what is saved, as a share of what one layer saves.
const TEMPORARY_LAYERS: f64 = 1.0;

/// Bytes that training with this configuration on such a device takes, without the program itself; at most [`u64::MAX`].
pub fn estimate_memory(experiment: &Experiment, device: &Device) -> u64 {
    // Floats: the products of a configuration's numbers may be beyond any integer.
    let architecture = &experiment.params.architecture;
    let model = architecture.model();
    let parameters = architecture.parameter_counts().total as f64 * COPIES * FLOAT;
    let samples = experiment.train.batch_size as f64;
    let patch = model.patch_bytes(0) as f64;
    let patches = (experiment.params.input_seq_len as f64 / patch.max(1.0)).ceil();
    let mut activations = 0.0;
    for stage in 0..model.num_stages() {
        let positions = match stage {
            0 => patches,
            _ => model.seq_lens[stage] as f64,
        };
        let sequences = (samples * patches * patch / (positions * model.patch_bytes(stage) as f64).max(1.0)).floor();
        let chunks = model.train_checkpoint_chunks.as_ref().filter(|_| stage > 0);
        let group = match chunks {
            Some(chunks) => (sequences / chunks[stage - 1] as f64).ceil(),
            None => group_size(positions as usize, device) as f64,
        };
        let rows = group.clamp(1.0, sequences.max(1.0)) * positions;
        activations += rows * row(model, stage, positions) * FLOAT;
    }
    (parameters + activations) as u64
}

/// Floats that one row of a stage keeps.
fn row(model: &ModelConfig, stage: usize, positions: f64) -> f64 {
    let dim = model.hidden_dims[stage] as f64;
    let layers = model.num_layers[stage] as f64 + TEMPORARY_LAYERS;
    let local = model.num_stages() - 1;
    let layer = match &model.block[stage] {
        BlockConfig::Transformer(config) | BlockConfig::TransformerEncoder(config) => {
            transformer(config, dim, positions)
        }
        BlockConfig::Mamba2(config) => mamba2(config, dim),
        BlockConfig::Mamba1(config) => mamba1(config, dim),
        // what a custom block keeps is its own secret: its input, and a guess at one layer's graph
        BlockConfig::Custom(_) => 16.0 * dim,
    };
    let edges = if stage == local {
        3.0 * model.num_tokens as f64
    } else {
        let patch = model.patch_bytes(stage) as f64 * model.hidden_dims[local] as f64;
        3.0 * patch + model.seq_lens[stage + 1] as f64 * model.hidden_dims[stage + 1] as f64
    };
    layers * layer + edges + 6.0 * dim
}

fn transformer(config: &TransformerConfig, dim: f64, positions: f64) -> f64 {
    let heads = config.attn_num_heads as f64;
    // residuals and norms; q, [k | v], its rotated copy, the attended values; the inner activations
    let short = if positions <= 64.0 { heads * positions } else { 0.0 };
    4.0 * dim + 6.0 * heads * config.attn_head_dims as f64 + short + 2.0 * config.ff_multiplier as f64 * dim
}

fn mamba2(config: &MambaConfig, dim: f64) -> f64 {
    let inner = config.expand as f64 * dim;
    let mixed = inner + 2.0 * config.d_state as f64;
    2.0 * dim + 3.0 * inner + 2.0 * mixed + (inner / config.headdim.max(1) as f64).floor()
}

fn mamba1(config: &MambaConfig, dim: f64) -> f64 {
    2.0 * dim + 5.0 * config.expand as f64 * dim + 2.0 * config.d_state as f64 + (dim / 16.0).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERIMENT: &str = "
io: {name_model: a, output_dir: a, dataset_dir: a, dataset_id: bytes, num_models_to_save: 1, validate_amount: 1,
     log_train_loss_amount: 1}
params: {input_seq_len: 100, num_tokens: 10, pad_token_id: 0, seq_lens: [25, 4], hidden_dims: [6, 4], num_layers: [1, 1],
         train_checkpoint_chunks: [2], block: {block_type: lstm}}
train: {target_elements: 18446744073709551615, target_elements_strategy: batch, batch_size: 3, learning_rate: 1.0,
        gradient_accumulate_every: 1}
";

    fn estimate(overrides: &[&str]) -> u64 {
        let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
        estimate_memory(
            &Experiment::from_yaml_str(EXPERIMENT, "a.yaml", &overrides).unwrap(),
            &Device::Cpu,
        )
    }

    #[test]
    fn rows_of_every_stage_are_counted() {
        let parameters = Experiment::from_yaml_str(EXPERIMENT, "a.yaml", &[])
            .unwrap()
            .params
            .architecture
            .parameter_counts()
            .total;
        // 3 · 25 rows: two layers of 16 · 6, patches of 4 · 4 three times, 4 · 4 of context, 6 · 6
        let first = 75 * (2 * 96 + 3 * 16 + 16 + 36);
        // a chunk is 38 of 75 sequences of 4 rows: two layers of 16 · 4, three rows of logits, 6 · 4
        let second = 38 * 4 * (2 * 64 + 30 + 24);
        assert_eq!(estimate(&[]), 16 * parameters + 4 * (first + second));
    }

    #[test]
    fn no_numbers_are_too_large() {
        let largest = usize::MAX.to_string();
        let set = |key: &str| format!("{key}={largest}");
        assert_eq!(
            estimate(&[&set("train.batch_size"), &set("params.input_seq_len")]),
            u64::MAX
        );
        assert_eq!(
            estimate(&[&set("params.num_layers.0"), &set("train.batch_size")]),
            u64::MAX
        );
        assert!(estimate(&[&set("params.seq_lens.0"), "params.seq_lens.1=1", "train.batch_size=1"]) < u64::MAX);
        assert!(estimate(&[&set("params.train_checkpoint_chunks.0")]) < u64::MAX);
    }
}
