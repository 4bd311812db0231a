//! The arguments of `mblm convert`.

use std::path::PathBuf;

use clap::Args;

/// Convert between the Python package's checkpoints and model folders
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm convert checkpoint.pth my-model --config run/config.yaml
  mblm convert my-model checkpoint.pth")]
pub(crate) struct ConvertArgs {
    /// The .pth file of the Python package (training checkpoint or bare state dict), or the model
    /// folder, to read
    pub(crate) from: PathBuf,

    /// The model folder to write, or a .pth file if the name ends in .pth
    pub(crate) to: PathBuf,

    /// Configuration of the run that wrote the .pth file, for the model's architecture
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// Replace the file or folder TO if it exists
    #[arg(long)]
    pub(crate) force: bool,
}
