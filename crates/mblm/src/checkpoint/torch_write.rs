//! Writes torch files for the published package, with the buffers that its strict loading requires.

use std::path::Path;

use candle_core::{Device, Tensor};
use mblm_formats::tensors;
use serde_json::Value;

use super::{atomic, names};
use crate::{Error, Result};

const ROTARY_BASE: f64 = 10_000.;

/// Writes floating-point tensors as `f32`: with a loss as the package's training checkpoint
/// `{"MODEL": state dict, "LOSS": loss}`, without one as a bare state dict.
///
/// The package loads only files with all buffers: add the buffers of [`rotary_buffers`].
pub fn write(path: &Path, tensors: &[(String, Tensor)], loss: Option<f64>) -> Result<()> {
    names::check_writable(tensors).map_err(|message| Error::file(path, message))?;
    atomic::write(path, |out| tensors::write_torch(tensors, loss, out))
}

/// Returns the rotary frequencies `10000^(-2i/d_h)`, i < d_h/2, of each Transformer stage under the
/// package's names. They follow from the configuration, but its strict loading requires them.
///
/// `config` holds the package's model keys (for a masked-byte model, under `mblm_config`).
pub fn rotary_buffers(config: &Value) -> Result<Vec<(String, Tensor)>> {
    let config = config.get("mblm_config").unwrap_or(config);
    let stages = config.get("hidden_dims").and_then(Value::as_array).map_or(0, Vec::len);
    let mut buffers = Vec::new();
    for stage in 0..stages {
        let block = match config.get("block") {
            Some(Value::Array(blocks)) => blocks.get(stage),
            block => block,
        };
        let rotary = block
            .and_then(|block| block.get("attn_use_rot_embs"))
            .and_then(Value::as_bool);
        let Some(block) = block.filter(|_| rotary == Some(true)) else {
            continue;
        };
        let width = block.get("attn_head_dims").and_then(Value::as_u64);
        let Some(width) = width.and_then(|width| u32::try_from(width).ok()) else {
            return Err(Error::config(format!(
                "`attn_head_dims` of stage {}: expected the width of a head, found {}",
                stage + 1,
                block.get("attn_head_dims").unwrap_or(&Value::Null)
            )));
        };
        let frequencies: Vec<f32> = (0..width).step_by(2).map(|channel| frequency(channel, width)).collect();
        let name = format!("stage_models.{stage}.rotary_emb.inv_freq");
        buffers.push((name, Tensor::new(frequencies, &Device::Cpu)?));
    }
    Ok(buffers)
}

/// Returns `base^(-channel/width)`, rounded like the package's `f32` computation.
fn frequency(channel: u32, width: u32) -> f32 {
    let exponent = channel as f32 / width as f32;
    1. / libm::pow(ROTARY_BASE, f64::from(exponent)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Weights;
    use candle_core::DType;
    use serde_json::json;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/decoder_2d_st.pth");

    fn tensors() -> Vec<(String, Tensor)> {
        let weight = Tensor::arange(0f64, 24., &Device::Cpu)
            .unwrap()
            .reshape((2, 3, 4))
            .unwrap();
        vec![
            ("to_logits.weight".into(), weight.permute((2, 0, 1)).unwrap()),
            (
                "start_tokens.0".into(),
                weight.flatten_all().unwrap().to_dtype(DType::BF16).unwrap(),
            ),
            ("scalar".into(), Tensor::new(-0.25f32, &Device::Cpu).unwrap()),
            ("empty".into(), Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap()),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, loss) in [("bare.pth", None), ("checkpoint.pth", Some(1.25))] {
            let path = folder.path().join(name);
            write(&path, &tensors(), loss).unwrap();
            let weights = Weights::open(&path).unwrap();
            let names: Vec<&str> = weights.names().collect();
            assert_eq!(names, ["to_logits.weight", "start_tokens.0", "scalar", "empty"]);
            for (name, tensor) in tensors() {
                let loaded = weights.load(&name, tensor.dims(), DType::F32, &Device::Cpu).unwrap();
                let values = |tensor: &Tensor| to_values(&tensor.to_dtype(DType::F32).unwrap());
                assert_eq!(values(&loaded), values(&tensor), "{name}");
            }
        }
    }

    fn to_values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_buffers_are_those_that_the_package_writes() {
        let attention = json!({"attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true});
        let config = json!({"hidden_dims": [32, 32], "block": [{"d_state": 16}, attention]});
        let buffers = rotary_buffers(&config).unwrap();
        let file = std::fs::read(FIXTURE).unwrap();
        let stored: Vec<_> = tensors::read(&file)
            .unwrap()
            .into_iter()
            .filter(|(name, _)| name.ends_with("inv_freq"))
            .collect();
        assert_eq!((buffers.len(), stored.len()), (1, 1));
        assert_eq!(buffers[0].0, stored[0].0);
        let package = stored[0].1.load(&file, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(to_values(&buffers[0].1), to_values(&package));

        let shared = json!({"mblm_config": {"hidden_dims": [32, 32, 32], "block": attention}});
        assert_eq!(rotary_buffers(&shared).unwrap().len(), 3, "one block for all stages");
        let unused = json!({"hidden_dims": [32], "block": [{"attn_head_dims": 16, "attn_use_rot_embs": false}]});
        assert!(rotary_buffers(&unused).unwrap().is_empty());
        let broken = json!({"hidden_dims": [32], "block": [{"attn_head_dims": "x", "attn_use_rot_embs": true}]});
        let message = rotary_buffers(&broken).unwrap_err().to_string();
        assert!(
            message.contains("`attn_head_dims` of stage 1") && message.contains("\"x\""),
            "{message}"
        );
    }
}
