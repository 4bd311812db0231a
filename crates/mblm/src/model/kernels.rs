//! What of a model has no kernel on a device, and is computed there by the reference implementations: right, but slower and with more memory.

use candle_core::Device;
use mblm_ops::{attention, conv_silu, selective_scan, ssd};

use crate::config::{BlockConfig, ModelConfig, TransformerConfig};

/// One sentence for each part of the model that has no kernel on `device`, each naming the key that would change it.
///
/// The CPU has kernels for everything.
pub fn without_kernels(config: &ModelConfig, device: &Device) -> Vec<String> {
    match device.is_cuda() {
        true => on_cuda(config),
        false => Vec::new(),
    }
}

fn on_cuda(config: &ModelConfig) -> Vec<String> {
    let mut found = Vec::new();
    for (stage, block) in config.block.iter().enumerate() {
        let mut say = |what: String| found.push(format!("stage {}: {what}", stage + 1));
        let mut most = |what: &str, value: usize, most: usize, key: &str| {
            if value > most {
                say(format!("{what} of {value}: CUDA kernels take up to {most} ({key})"));
            }
        };
        match block {
            BlockConfig::Transformer(block) => {
                most(
                    "attention heads",
                    block.attn_head_dims,
                    attention::MAX_HEAD_DIM_ON_CUDA,
                    "attn_head_dims",
                );
                attention_dropout(block, &mut say);
            }
            BlockConfig::TransformerEncoder(block) => {
                say("attention with masked bytes: CUDA kernels see all keys".into());
                attention_dropout(block, &mut say);
            }
            BlockConfig::Mamba2(block) => {
                most("scan heads", block.headdim, ssd::MAX_HEAD_DIM_ON_CUDA, "headdim");
                most("scan states", block.d_state, ssd::MAX_STATES_ON_CUDA, "d_state");
                most("convolutions", block.d_conv, conv_silu::MAX_TAPS_ON_CUDA, "d_conv");
            }
            BlockConfig::Mamba1(block) => {
                most(
                    "scan states",
                    block.d_state,
                    selective_scan::MAX_STATES_ON_CUDA,
                    "d_state",
                );
                most("convolutions", block.d_conv, conv_silu::MAX_TAPS_ON_CUDA, "d_conv");
            }
            BlockConfig::Custom(_) => {}
        }
    }
    found
}

fn attention_dropout(block: &TransformerConfig, say: &mut dyn FnMut(String)) {
    if block.attn_dropout > 0.0 {
        say("dropout of attention weights: CUDA kernels have none (attn_dropout)".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(blocks: serde_json::Value) -> ModelConfig {
        serde_json::from_value(serde_json::json!({
            "num_tokens": 257, "pad_token_id": 256, "train_checkpoint_chunks": null,
            "seq_lens": [16, 4], "hidden_dims": [256, 256], "num_layers": [1, 1], "block": blocks
        }))
        .unwrap()
    }

    #[test]
    fn parts_beyond_the_kernels_are_named_by_stage_and_key() {
        let attention = |width: usize, dropout: f64| {
            serde_json::json!({ "attn_head_dims": width, "attn_num_heads": 1, "attn_dropout": dropout,
                                "attn_use_rot_embs": true, "pos_emb_type": null })
        };
        let mamba = |states: usize, head: usize| serde_json::json!({ "d_state": states, "d_conv": 4, "expand": 2, "headdim": head, "pos_emb_type": null });
        let covered = config(serde_json::json!([mamba(128, 64), attention(128, 0.0)]));
        assert_eq!(on_cuda(&covered), Vec::<String>::new());
        let found = on_cuda(&config(serde_json::json!([mamba(256, 128), attention(160, 0.1)])));
        let keys = ["headdim", "d_state", "attn_head_dims", "attn_dropout"];
        assert_eq!(found.len(), keys.len(), "{found:?}");
        for ((text, key), stage) in found.iter().zip(keys).zip([1, 1, 2, 2]) {
            assert!(
                text.starts_with(&format!("stage {stage}: ")) && text.contains(key),
                "{text}"
            );
        }
        assert!(without_kernels(&covered, &Device::Cpu).is_empty());
    }
}
