//! The arguments of `mblm plot`.

use std::path::PathBuf;

use clap::Args;

use crate::drawing::{Across, Unit};
use crate::options::model_path;

/// Draw the loss curves and learning rates of runs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm plot runs/tiny_1700000000
  mblm plot runs/tiny_1700000000 -o losses.png --unit nats --log
  mblm plot runs/a runs/b old/loss.csv -o compared.svg --x time

A light line shows the training loss, a strong line the smoothed training loss; circles show the loss on held-out data, a cross
the loss on test data. A run may still be in progress. The loss.csv files of the Python package can be drawn as well.")]
pub(crate) struct PlotArgs {
    /// Folders of runs, or loss.csv files; `latest` is the newest run in `runs`
    #[arg(required = true, value_name = "RUN", value_parser = model_path)]
    pub(crate) runs: Vec<PathBuf>,

    /// File of the figure, .svg or .png [default: plot.svg in the run's folder, or in the current
    /// folder for several runs]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Replace the file of --output if it exists; the default plot.svg is always replaced
    #[arg(long, requires = "output")]
    pub(crate) force: bool,

    /// Quantity on the horizontal axis
    #[arg(long, value_enum, default_value = "batches", value_name = "AXIS")]
    pub(crate) x: Across,

    /// Unit of the losses
    #[arg(long, value_enum, default_value = "bits")]
    pub(crate) unit: Unit,

    /// Draw the losses on a logarithmic axis
    #[arg(long)]
    pub(crate) log: bool,

    /// Print the figure's path and contents as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
