//! In place of `figure`, in a program that was built without drawing code: `--plot` is refused.

use std::path::Path;

use anyhow::Result;

use super::table::Table;
use crate::usage::Usage;

/// There are none.
pub(super) enum Figure {}

impl Figure {
    /// Says what the program lacks.
    pub(super) fn new(path: &Path, _: bool) -> Result<Self, Usage> {
        Err(Usage(format!(
            "--plot {}: this program was built without the feature `plot`; leave --plot out, or build with `--features plot`",
            path.display()
        )))
    }

    /// Draws nothing, since there is no figure.
    pub(super) fn write(&self, _: &Table<'_>) -> Result<()> {
        match *self {}
    }
}
