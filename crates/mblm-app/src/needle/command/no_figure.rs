//! Replaces `figure` in a program without drawing code: `--plot` is an error.

use std::path::Path;

use anyhow::Result;

use super::table::Table;
use crate::usage::Usage;

/// A figure cannot be made without drawing code.
pub(super) enum Figure {}

impl Figure {
    /// Fails and names the missing feature.
    pub(super) fn new(path: &Path, _: bool) -> Result<Self, Usage> {
        Err(Usage(format!(
            "--plot {}: this program was built without the feature `plot`; leave --plot out, or build with `--features plot`",
            path.display()
        )))
    }

    /// Never called, since there is no figure.
    pub(super) fn write(&self, _: &Table<'_>) -> Result<()> {
        match *self {}
    }
}
