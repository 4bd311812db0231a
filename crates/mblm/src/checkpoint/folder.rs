//! A model folder: the configuration and the parameters of a model.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | `{"format": 1, "kind": "decoder" or "encoder", "config": {the package's model keys}}` |
//! | `model.safetensors` | the parameters as `f32`, under the names of the Python package |
//! | `SHA256SUMS` | the checksums of both, checked if present |
//!
//! For the folder of a training run its best model is opened. Other kinds of models use the same
//! files, with their own kind and configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::Tensor;
use mblm_formats::tensors;
use serde::Deserialize;
use serde_json::{Value, json};

use super::atomic::{self, NewFolder};
use super::layout::{CONFIG_FILE, WEIGHTS_FILE};
use super::{SUMS_FILE, Weights, names, run, sums};
use crate::{Error, Result};

/// The format version that is written, and the newest that is read.
pub const FORMAT: u64 = 1;

/// The longest accepted configuration, in bytes: parsed JSON takes many times its length.
const MAX_CONFIG: u64 = 1 << 20;

/// The kinds of byte models.
const KINDS: [&str; 2] = ["decoder", "encoder"];

/// An open model folder.
#[derive(Debug)]
pub struct Folder {
    /// `decoder`, `encoder`, or another kind of model with its own configuration keys.
    pub kind: String,
    /// The model's configuration, under the keys of the Python package.
    pub config: Value,
    /// The model's parameters.
    pub weights: Weights,
}

#[derive(Deserialize)]
struct Version {
    format: u64,
}

#[derive(Deserialize)]
struct Document {
    kind: String,
    config: Value,
}

impl Folder {
    /// Opens a model folder.
    ///
    /// Fails if a file is missing or damaged, or if a newer version of this program wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &run::model_folder(path);
        let metadata = std::fs::metadata(path).map_err(|error| Error::file(path, error))?;
        if !metadata.is_dir() {
            return Err(Error::file(
                path,
                "expected a model folder, found a file; try `mblm convert`",
            ));
        }
        check_complete(path)?;
        // the configuration first: another version may sum in another way
        let (kind, config) = read_config(&path.join(CONFIG_FILE))?;
        sums::verify(path)?;
        let weights = Weights::open(&path.join(WEIGHTS_FILE))?;
        Ok(Self { kind, config, weights })
    }
}

/// Checks that a folder holds the files of a model.
pub(super) fn check_complete(path: &Path) -> Result<()> {
    let missing: Vec<String> = [CONFIG_FILE, WEIGHTS_FILE]
        .iter()
        .filter(|name| !path.join(name).is_file())
        .map(|name| format!("`{name}`"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::file(
        path,
        format!(
            "expected a model folder, but it lacks {}; give a folder that `mblm train` wrote, or convert a .pth file \
             with `mblm convert`",
            missing.join(" and ")
        ),
    ))
}

/// Returns the kind and the configuration.
pub(super) fn read_config(path: &Path) -> Result<(String, Value)> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| Error::file(path, error))?;
    let read = file.take(MAX_CONFIG + 1).read_to_end(&mut text);
    read.map_err(|error| Error::file(path, error))?;
    if text.len() as u64 > MAX_CONFIG {
        let message = format!(
            "expected the configuration of a model, of at most {MAX_CONFIG} bytes, found a larger \
             file"
        );
        return Err(Error::file(path, message));
    }
    let damaged = |error: serde_json::Error| Error::file(path, format!("not the configuration of a model: {error}"));
    // The version first: a newer format may hold other keys.
    let Version { format } = serde_json::from_slice(&text).map_err(damaged)?;
    if format != FORMAT {
        return Err(Error::file(
            path,
            format!(
                "expected format {FORMAT}, found format {format}; use the version of mblm that wrote it, or a newer \
                 version"
            ),
        ));
    }
    let Document { kind, config } = serde_json::from_slice(&text).map_err(damaged)?;
    Ok((kind, config))
}

/// Returns whether a kind is a byte model.
pub(super) fn is_of_bytes(kind: &str) -> bool {
    KINDS.contains(&kind)
}

/// Writes the folder of a byte model, creating it if missing: floating-point tensors as `f32`, each
/// name once.
///
/// Files are replaced atomically, the configuration last: a new folder with both is complete.
pub fn save(path: &Path, kind: &str, config: &Value, tensors: &[(String, Tensor)]) -> Result<()> {
    if !is_of_bytes(kind) {
        return Err(Error::input(format!(
            "expected the kind `decoder` or `encoder`, found `{kind}`"
        )));
    }
    names::check_writable(tensors).map_err(|message| Error::file(path, message))?;
    std::fs::create_dir_all(path).map_err(|error| Error::file(path, format!("cannot make the folder: {error}")))?;
    // between the two replacements the checksums would match neither model
    atomic::remove(&path.join(SUMS_FILE))?;
    atomic::fill_folder(path, |folder| fill(folder, kind, config, tensors))
}

/// Writes the files of a model of any kind into a folder that is being written.
///
/// # Errors
/// Tensors that cannot be written, and errors of the disk.
pub fn fill(folder: &mut NewFolder, kind: &str, config: &Value, tensors: &[(String, Tensor)]) -> Result<()> {
    folder.write_tensors(WEIGHTS_FILE, tensors)?;
    let document = json!({"format": FORMAT, "kind": kind, "config": config});
    folder.write(CONFIG_FILE, |out| writeln!(out, "{document:#}"))
}

/// Writes a safetensors file as [`NewFolder::write_tensors`] does, with `metadata` in its header.
pub(crate) fn save_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, &str)]) -> Result<()> {
    atomic::write(path, |out| tensors::write_safetensors_with(tensors, metadata, out))
}

impl NewFolder {
    /// Writes a safetensors file: floating-point tensors as `f32`, each name once.
    pub fn write_tensors(&mut self, name: &str, tensors: &[(String, Tensor)]) -> Result<()> {
        self.write(name, |out| tensors::write_safetensors(tensors, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn tensors() -> Vec<(String, Tensor)> {
        let w = Tensor::arange(0f32, 6., &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        vec![
            ("to_logits.weight".into(), w.t().unwrap()),
            ("start_tokens.0".into(), w),
        ]
    }

    fn saved() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        save(
            folder.path(),
            "decoder",
            &json!({"seq_lens": [16, 8], "num_tokens": 257}),
            &tensors(),
        )
        .unwrap();
        folder
    }

    /// Returns the error of opening the folder with this configuration.
    fn error_with(config: &str) -> String {
        let folder = saved();
        std::fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
        Folder::open(folder.path()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_saved_is_opened() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a").join("model");
        let config = json!({"seq_lens": [16, 8], "num_tokens": 257});
        save(&path, "encoder", &config, &tensors()).unwrap();
        let folder = Folder::open(&path).unwrap();
        assert_eq!((folder.kind.as_str(), &folder.config), ("encoder", &config));
        for (name, tensor) in tensors() {
            let loaded = folder
                .weights
                .load(&name, tensor.dims(), DType::F32, &Device::Cpu)
                .unwrap();
            assert_eq!(loaded.to_vec2::<f32>().unwrap(), tensor.to_vec2::<f32>().unwrap());
        }
        assert_eq!(
            Weights::open(&path).unwrap().names().len(),
            2,
            "the weights of a folder"
        );
    }

    #[test]
    fn a_folder_without_model_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let message = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("lacks `config.json` and `model.safetensors`"),
            "{message}"
        );
        assert!(message.contains("mblm convert"), "{message}");
        let folder = saved();
        std::fs::remove_file(folder.path().join(CONFIG_FILE)).unwrap();
        let message = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("lacks `config.json`;"), "{message}");
        let message = Folder::open(&folder.path().join(WEIGHTS_FILE)).unwrap_err().to_string();
        assert!(message.contains("found a file"), "{message}");
        assert!(Folder::open(&folder.path().join("missing")).is_err());
    }

    #[test]
    fn a_damaged_configuration_names_file_line_and_column() {
        let message = error_with("{\"format\": 1,\n  \"kind\": decoder}");
        assert!(
            message.contains("config.json: ") && message.contains("line 2 column 11"),
            "{message}"
        );
        let message = error_with("{\"format\": 1, \"kind\": \"decoder\"}");
        assert!(message.contains("missing field `config`"), "{message}");
        assert!(error_with("").contains("line 1 column 0"));
        let zeros = format!("{{\"format\": 1, \"zeros\": [0{}]}}", ",0".repeat(1 << 19));
        assert!(error_with(&zeros).contains("at most 1048576 bytes"));
    }

    #[test]
    fn other_formats_and_kinds_are_refused() {
        let message = error_with("{\"format\": 2, \"layout\": []}");
        assert!(message.contains("expected format 1, found format 2"), "{message}");
        let other = saved();
        let both = "{\"format\": 1, \"kind\": \"both\", \"config\": {}}";
        std::fs::write(other.path().join(CONFIG_FILE), both).unwrap();
        std::fs::remove_file(other.path().join(SUMS_FILE)).ok();
        assert_eq!(Folder::open(other.path()).unwrap().kind, "both");
        let message = super::super::architecture_of(other.path()).unwrap_err().to_string();
        assert!(
            message.contains("`decoder` or `encoder`, found the kind `both`"),
            "{message}"
        );
        let folder = tempfile::tempdir().unwrap();
        assert!(save(folder.path(), "both", &json!({}), &[]).is_err());
    }

    #[test]
    fn tensors_that_cannot_be_written_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_, tensor) = tensors().remove(0);
        let twice = [("w".into(), tensor.clone()), ("w".into(), tensor.clone())];
        let message = save(folder.path(), "decoder", &json!({}), &twice)
            .unwrap_err()
            .to_string();
        assert!(message.contains("`w` appears twice"), "{message}");
        let integers = [("w".into(), tensor.to_dtype(DType::U32).unwrap())];
        let message = save(folder.path(), "decoder", &json!({}), &integers)
            .unwrap_err()
            .to_string();
        assert!(message.contains("`w` has elements of type U32"), "{message}");
        assert!(!folder.path().join(WEIGHTS_FILE).exists());
    }
}
