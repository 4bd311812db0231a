//! Reads fixture files and the model parameters in them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

use crate::model::{Init, ModelBatch, ParameterSource};
use crate::{Error, Result};

/// A fixture file in memory.
pub struct Fixture {
    path: PathBuf,
    metadata: HashMap<String, String>,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    /// Reads a fixture. Fails if the file is not a safetensors file or lacks its metadata.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::file(path, error))?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads a fixture's bytes like [`Fixture::open`]; messages refer to it as `path`.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let foreign = |error: &dyn std::fmt::Display| {
            Error::file(path, format!("expected a fixture in the safetensors format: {error}"))
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| foreign(&error))?;
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|error| foreign(&error))?;
        let fixture = Self {
            path: path.to_path_buf(),
            metadata: header.metadata().clone().unwrap_or_default(),
            tensors,
        };
        fixture.text("kind")?;
        fixture.text("config")?;
        Ok(fixture)
    }

    /// Returns the path used in messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the kind: `decoder`, `encoder` or `train`.
    pub fn kind(&self) -> &str {
        self.metadata.get("kind").map_or("", String::as_str)
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| {
            Error::file(
                &self.path,
                format!("the metadata {key:?} are missing: this safetensors file is not a fixture"),
            )
        })
    }

    /// Parses a metadata entry that holds JSON.
    pub fn json<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        serde_json::from_str(self.text(key)?)
            .map_err(|error| Error::file(&self.path, format!("metadata {key:?}: {error}")))
    }

    /// Returns a tensor in its own type, on the CPU.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::file(&self.path, format!("the fixture has no tensor {name:?}")))
    }

    /// Returns the elements of a tensor as numbers.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.tensor(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }

    /// Returns a flat tensor of ids or whole numbers.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.numbers(name)?.into_iter().map(|id| id as u32).collect())
    }

    /// Returns a tensor of ids (B, L) or nested (B, P_1, P_2, …) as samples: the ids, B and L.
    pub fn samples(&self, name: &str) -> Result<ModelBatch> {
        let (ids, batch) = (self.ids(name)?, self.tensor(name)?.dims().first().copied().unwrap_or(0));
        let len = ids.len() / batch.max(1);
        Ok(ModelBatch::new(ids, batch, len))
    }

    /// Returns the parameters stored under a prefix such as `param.`.
    pub fn parameters<'a>(&'a self, prefix: &'a str) -> FixtureParameters<'a> {
        FixtureParameters { fixture: self, prefix }
    }
}

/// The parameters of a fixture as a source of model parameters.
pub struct FixtureParameters<'a> {
    fixture: &'a Fixture,
    prefix: &'a str,
}

impl ParameterSource for FixtureParameters<'_> {
    fn tensor(&self, name: &str, _: &[usize], _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.fixture.tensor(&format!("{}{name}", self.prefix))?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }
}
