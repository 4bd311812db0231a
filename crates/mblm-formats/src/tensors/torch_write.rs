//! Writes torch files that `torch.load(weights_only=True)` and the Python package can load.
//!
//! The archive has the same records as torch's: `data.pkl` (protocol 2, see `torch.rs`),
//! `byteorder`, `version`, and one `data/KEY` per tensor, uncompressed and aligned to 64 bytes so
//! that torch can map it. Equal tensors give equal files.

use std::io::{self, Write};

use candle_core::{Layout, Tensor};
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::state_dict::MODEL;
use super::stored;
use super::torch::LOSS;

const FOLDER: &str = "archive";
const ALIGNMENT: u16 = 64;

/// Writes floating-point tensors as `f32`: with a loss as the published package's training
/// checkpoint `{"MODEL": state dict, "LOSS": loss}`, without one as a bare state dict.
///
/// # Errors
/// Errors of `out`, and tensors that cannot be read.
pub fn write(tensors: &[(String, Tensor)], loss: Option<f64>, out: &mut dyn Write) -> io::Result<()> {
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

/// Begins a record; later writes go to it.
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

/// Returns `data.pkl`, in which tensor i has the storage with the key i.
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

/// The opcodes written so far: `(` sets a mark, `t` makes a tuple and `u` fills a dict from the
/// items above the mark, `c` names a function or class, `R` calls, `Q` refers to a record.
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

    /// `_rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, backward hooks
    /// OrderedDict())`.
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
    use candle_core::{DType, Device};

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
    fn records_are_aligned_and_files_repeat() {
        let write = |loss| {
            let mut bytes = Vec::new();
            super::write(&tensors(), loss, &mut bytes).unwrap();
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
}
