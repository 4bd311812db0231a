//! A configuration file with any keys: text and overrides become a tree of values, from which a
//! caller reads its own types.
//!
//! Errors have the form of an [`Experiment`](super::Experiment)'s errors: file, line and key.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tree::{Node, Problem};
use super::yaml;
use crate::{Error, Result};

/// A configuration as written, with the positions of its values.
///
/// ```
/// use mblm::config::{Document, Problem};
///
/// #[derive(serde::Deserialize)]
/// struct Bake {
///     minutes: u32,
/// }
///
/// let document = Document::from_yaml_str("minutes: 400", "bake.yaml", &[])?;
/// let bake: Bake = document.read()?;
/// let problem = Problem::new("minutes", format!("expected at most 90, found {}", bake.minutes));
/// assert_eq!(document.error(problem).to_string(), "bake.yaml:1:10: minutes: expected at most 90, found 400");
/// # Ok::<(), mblm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Document {
    root: Node,
    source: String,
}

impl Document {
    /// Reads a configuration file and applies the overrides (`KEY=VALUE`) in order.
    ///
    /// # Errors
    /// A file that cannot be read or is not YAML, or an override of a key that cannot exist.
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::from_yaml_str(&yaml::read_text(path)?, &path.display().to_string(), overrides)
    }

    /// Reads YAML text; `source` stands for the file in error messages.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_yaml_str(text: &str, source: &str, overrides: &[String]) -> Result<Self> {
        Ok(Self {
            root: yaml::parse(text, source, overrides)?,
            source: source.to_string(),
        })
    }

    /// Returns whether the configuration is a map with this key.
    pub fn has(&self, key: &str) -> bool {
        self.root.get(key).is_some()
    }

    /// Reads the whole configuration as a type.
    ///
    /// # Errors
    /// A value of another type, or a key that is missing or unknown.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        self.root.read(&[]).map_err(|problem| problem.into_error(&self.source))
    }

    /// Returns the error for a problem with a value, with the position where the value was written.
    pub fn error(&self, problem: Problem) -> Error {
        self.root.error(problem, &self.source)
    }
}

/// Returns a configuration as YAML text.
///
/// # Errors
/// A value that YAML cannot represent, such as a path that is not UTF-8.
pub fn to_yaml(config: &impl Serialize) -> Result<String> {
    yaml::write(config)
}
