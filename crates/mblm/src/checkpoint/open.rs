//! Opening whole models from files, and saving them.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::atomic::NewFolder;
use super::{CONFIG_FILE, Folder, Weights, folder, rotary_buffers, run, write_torch};
use crate::blocks::BlockRegistry;
use crate::config::Architecture;
use crate::model::{Init, Model, ParameterSource};
use crate::{Error, Result};

/// The tensors of a file as the parameters of a model.
impl ParameterSource for Weights {
    fn tensor(&self, name: &str, shape: &[usize], _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.load(name, shape, dtype, device)
    }
}

/// Returns the architecture in a model folder or beside a weights file; `None` if there is none.
pub fn architecture_of(path: &Path) -> Result<Option<Architecture>> {
    let path = &run::model_folder(path);
    let folder = match path.is_dir() {
        true => {
            folder::check_complete(path)?;
            path
        }
        false => path.parent().unwrap_or(Path::new("")),
    };
    let file = folder.join(CONFIG_FILE);
    if !file.is_file() {
        return Ok(None);
    }
    let (kind, config) = folder::read_config(&file)?;
    architecture(&file, &kind, config).map(Some)
}

fn architecture(path: &Path, kind: &str, config: Value) -> Result<Architecture> {
    if !folder::is_of_bytes(kind) {
        let message = format!("expected a model of bytes, of the kind `decoder` or `encoder`, found the kind `{kind}`");
        return Err(Error::file(path, message));
    }
    let architecture: Architecture = serde_json::from_value(config)
        .map_err(|error| Error::file(path, format!("the model's configuration: {error}")))?;
    architecture.validate().map_err(|error| Error::file(path, error))?;
    Ok(architecture)
}

impl Architecture {
    /// Returns the configuration as JSON under the package's keys, as in `config.json`.
    pub fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|error| Error::config(format!("the model's configuration: {error}")))
    }
}

impl Model {
    /// Opens a model folder, the best model of a run's folder, or a weights file beside its
    /// `config.json`.
    ///
    /// # Errors
    /// Missing or damaged files; a missing tensor, or one of another shape or type than configured.
    pub fn open(path: &Path, registry: &BlockRegistry, device: &Device) -> Result<Self> {
        let (architecture, weights) = if path.is_dir() {
            let path = &run::model_folder(path);
            let folder = Folder::open(path)?;
            (
                architecture(&path.join(CONFIG_FILE), &folder.kind, folder.config)?,
                folder.weights,
            )
        } else {
            let weights = Weights::open(path)?;
            let Some(architecture) = architecture_of(path)? else {
                return Err(Error::file(
                    path,
                    format!(
                        "expected a {CONFIG_FILE} beside the weights, found none; make a model folder with `mblm \
                         convert WEIGHTS FOLDER --config RUN.yaml`"
                    ),
                ));
            };
            (architecture, weights)
        };
        Self::new(&architecture, registry, &weights, device)
    }

    /// Writes a model folder, replacing each existing file atomically.
    pub fn save(&self, path: &Path) -> Result<()> {
        let architecture = self.architecture();
        let tensors = self.parameters().named_tensors();
        folder::save(path, architecture.kind(), &architecture.to_json()?, &tensors)
    }

    /// Writes the files of a model folder into a folder that is being written.
    pub(crate) fn fill_folder(&self, new: &mut NewFolder) -> Result<()> {
        let architecture = self.architecture();
        let tensors = self.parameters().named_tensors();
        folder::fill(new, architecture.kind(), &architecture.to_json()?, &tensors)
    }

    /// Writes a `.pth` file that the Python package can load.
    pub fn save_torch(&self, path: &Path) -> Result<()> {
        let mut tensors = self.parameters().named_tensors();
        tensors.extend(rotary_buffers(&self.architecture().to_json()?)?);
        write_torch(path, &tensors, None)
    }
}
