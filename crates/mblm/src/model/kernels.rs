//! Parts of a model without a kernel on a device. They run slower and need more memory.

use candle_core::Device;

use crate::config::ModelConfig;

/// Returns one sentence for each part without a kernel on `device`, naming the key to change.
///
/// The CPU has kernels for everything.
pub fn without_kernels(config: &ModelConfig, device: &Device) -> Vec<String> {
    match device.is_cuda() {
        true => on_cuda(config),
        false => Vec::new(),
    }
}

fn on_cuda(config: &ModelConfig) -> Vec<String> {
    let stages = config.block.iter().enumerate();
    stages
        .flat_map(|(stage, block)| {
            let limits = block.device_limits();
            limits
                .into_iter()
                .map(move |what| format!("stage {}: {what}", stage + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockConfig, Mamba2, Transformer};

    fn config(blocks: [BlockConfig; 2]) -> ModelConfig {
        let [first, second] = blocks;
        ModelConfig::new([16, 4]).block(0, first).block(1, second)
    }

    #[test]
    fn parts_beyond_the_kernels_are_named_by_stage_and_key() {
        let covered = config([Mamba2::new(128, 64).into(), Transformer::new(1, 128).into()]);
        assert_eq!(on_cuda(&covered), Vec::<String>::new());
        let beyond = [
            Mamba2::new(256, 128).into(),
            Transformer::new(1, 160).attn_dropout(0.1).into(),
        ];
        let found = on_cuda(&config(beyond));
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
