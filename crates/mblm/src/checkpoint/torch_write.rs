//! Torch files, written: what `torch.load(weights_only=True)` and the Python package load.
//!
//! The archive has the records that torch's own have: `data.pkl` (protocol 2, see `torch.rs`), `byteorder`, one `data/KEY` for
//! each tensor, uncompressed and aligned to 64 bytes so that torch can map it, and `version`. Equal tensors give equal files.

use std::io::{self, Write};
use std::path::Path;

use candle_core::{Device, Layout, Tensor};
use serde_json::Value;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::state_dict::MODEL;
use super::torch::LOSS;
use super::{atomic, names, stored};
use crate::{Error, Result};

const FOLDER: &str = "archive";
const ALIGNMENT: u16 = 64;
const ROTARY_BASE: f64 = 10_000.;

/// Writes floating-point tensors as `f32`: with a loss as the package's training checkpoint `{"MODEL": state dict, "LOSS": loss}`,
/// without as a bare state dict.
///
/// The package loads a file only if it has every buffer as well: add those of [`rotary_buffers`].
pub fn write(path: &Path, tensors: &[(String, Tensor)], loss: Option<f64>) -> Result<()> {
    names::check_writable(tensors).map_err(|message| Error::file(path, message))?;
    atomic::write(path, |out| archive(tensors, loss, out))
}

/// The rotary frequencies `10000^(-2i/d_h)`, i < d_h/2, of each Transformer stage, under the names by which the package stores
/// them: functions of the model's configuration that its strict loading asks for all the same.
///
/// `config` holds the package's model keys (or, of a masked-byte model, has them under `mblm_config`).
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

/// `base^(-channel/width)`, rounded where the package's `f32` computation rounds.
fn frequency(channel: u32, width: u32) -> f32 {
    let exponent = channel as f32 / width as f32;
    1. / libm::pow(ROTARY_BASE, f64::from(exponent)) as f32
}

fn archive(tensors: &[(String, Tensor)], loss: Option<f64>, out: &mut dyn Write) -> io::Result<()> {
    let mut zip = ZipWriter::new_stream(out);
    record(&mut zip, "data.pkl", 0)?.write_all(&pickle(tensors, loss))?;
    record(&mut zip, "byteorder", 0)?.write_all(b"little")?;
    for (key, (_, tensor)) in tensors.iter().enumerate() {
        let bytes = tensor.elem_count() * size_of::<f32>();
        stored::write_f32(tensor, record(&mut zip, &format!("data/{key}"), bytes)?)?;
    }
    record(&mut zip, "version", 0)?.write_all(b"3\n")?;
    zip.finish()?;
    Ok(())
}

/// Begins a record, which gets what is written next.
fn record<'z, W: Write>(
    zip: &'z mut ZipWriter<StreamWriter<W>>,
    name: &str,
    bytes: usize,
) -> io::Result<&'z mut ZipWriter<StreamWriter<W>>> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(ALIGNMENT)
        .large_file(u32::try_from(bytes).is_err());
    zip.start_file(format!("{FOLDER}/{name}"), options)?;
    Ok(zip)
}

/// `data.pkl`: tensor number i has the storage with the key i.
fn pickle(tensors: &[(String, Tensor)], loss: Option<f64>) -> Vec<u8> {
    let mut pickle = Pickler(vec![0x80, 2]);
    if let Some(loss) = loss {
        pickle.code(b"}(");
        pickle.text(MODEL);
        pickle.state_dict(tensors);
        pickle.text(LOSS);
        pickle.code(b"G");
        pickle.code(&loss.to_be_bytes());
        pickle.code(b"u");
    } else {
        pickle.state_dict(tensors);
    }
    pickle.code(b".");
    pickle.0
}

/// The opcodes written so far: `(` sets a mark, `t` makes a tuple and `u` fills a dict of what follows it, `c` names a function or
/// class, `R` calls, `Q` refers to a record.
struct Pickler(Vec<u8>);

impl Pickler {
    fn code(&mut self, code: &[u8]) {
        self.0.extend_from_slice(code);
    }

    fn text(&mut self, text: &str) {
        self.code(b"X");
        self.code(&(text.len() as u32).to_le_bytes());
        self.code(text.as_bytes());
    }

    fn integer(&mut self, value: usize) {
        match i32::try_from(value) {
            Ok(value) => {
                self.code(b"J");
                self.code(&value.to_le_bytes());
            }
            Err(_) => {
                self.code(&[0x8a, 8]);
                self.code(&(value as u64).to_le_bytes());
            }
        }
    }

    fn integers(&mut self, values: &[usize]) {
        self.code(b"(");
        values.iter().for_each(|&value| self.integer(value));
        self.code(b"t");
    }

    fn state_dict(&mut self, tensors: &[(String, Tensor)]) {
        self.code(b"ccollections\nOrderedDict\n)R(");
        for (key, (name, tensor)) in tensors.iter().enumerate() {
            self.text(name);
            self.tensor(key, tensor);
        }
        self.code(b"u");
    }

    /// `_rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, backward hooks OrderedDict())`.
    fn tensor(&mut self, key: usize, tensor: &Tensor) {
        self.code(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.code(b"ctorch\nFloatStorage\n");
        self.text(&key.to_string());
        self.text("cpu");
        self.integer(tensor.elem_count());
        self.code(b"tQ");
        self.integer(0);
        self.integers(tensor.dims());
        self.integers(Layout::contiguous(tensor.shape()).stride());
        self.code(b"\x89ccollections\nOrderedDict\n)RtR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Weights, torch};
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
    fn records_are_aligned_and_files_repeat() {
        let write = |loss| {
            let mut bytes = Vec::new();
            archive(&tensors(), loss, &mut bytes).unwrap();
            bytes
        };
        let bytes = write(Some(0.5));
        assert_eq!(bytes, write(Some(0.5)));
        assert_ne!(bytes, write(Some(0.25)), "the loss is in the file");
        let mut zip = zip::ZipArchive::new(io::Cursor::new(&bytes)).unwrap();
        for index in 0..zip.len() {
            let record = zip.by_index(index).unwrap();
            assert_eq!(
                record.data_start().unwrap() % u64::from(ALIGNMENT),
                0,
                "{}",
                record.name().unwrap()
            );
        }
    }

    #[test]
    fn the_buffers_are_those_that_the_package_writes() {
        let attention = json!({"attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true});
        let config = json!({"hidden_dims": [32, 32], "block": [{"d_state": 16}, attention]});
        let buffers = rotary_buffers(&config).unwrap();
        let file = std::fs::read(FIXTURE).unwrap();
        let stored: Vec<_> = torch::read(&file)
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
