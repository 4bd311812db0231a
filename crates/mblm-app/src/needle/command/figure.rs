//! The heat map of `--plot`: a row for each depth, a column for each length; a cell shows the
//! percentage of values found.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mblm::checkpoint::atomic;

use super::table::Table;
use crate::drawing::{Format, HeatMap};
use crate::needle::Found;
use crate::output;
use crate::usage::Usage;

/// The file for the heat map.
pub(super) struct Figure {
    path: PathBuf,
    format: Format,
}

impl Figure {
    /// Checks the file's extension. Fails if the file exists and `replace` is false.
    pub(super) fn new(path: &Path, replace: bool) -> Result<Self, Usage> {
        let format = Format::of(path).map_err(|Usage(message)| Usage(format!("--plot {message}")))?;
        match path.exists() && !replace {
            true => Err(Usage(format!(
                "--plot {}: is there already; give another name, or --force to replace it",
                path.display()
            ))),
            false => Ok(Self {
                path: path.into(),
                format,
            }),
        }
    }

    /// Draws the table.
    pub(super) fn write(&self, table: &Table<'_>) -> Result<()> {
        let image = self.format.render(&heat_map(table))?;
        atomic::write(&self.path, |out| out.write_all(&image))?;
        Ok(())
    }
}

fn heat_map(table: &Table<'_>) -> HeatMap {
    let share = |cell: &Found| (cell.samples > 0).then(|| cell.accuracy());
    let depths = &table.args.depths;
    // rows are depths, columns are lengths
    let shares = (0..depths.len()).map(|depth| table.cells.iter().map(|row| share(&row[depth])).collect());
    let lengths = table.lengths.iter().map(|length| output::grouped(*length as u64));
    HeatMap {
        title: format!(
            "values found, % of {} samples, needles in each: {}",
            table.samples,
            table.test.task().options().needles
        ),
        x_label: "length of the context (bytes)".into(),
        y_label: "depth".into(),
        columns: lengths.collect(),
        rows: depths.iter().map(|depth| format!("{depth} %")).collect(),
        shares: shares.collect(),
    }
}
