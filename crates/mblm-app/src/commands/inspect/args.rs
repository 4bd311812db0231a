//! The arguments of `mblm inspect`.

use std::path::PathBuf;

use clap::Args;

/// Show the contents of a configuration, model folder or checkpoint
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm inspect configs/quickstart.yaml
  mblm inspect runs/tiny_1700000000
  mblm inspect checkpoint.pth --tensors")]
pub(crate) struct InspectArgs {
    /// Configuration (YAML), model folder, .safetensors or .pth file
    pub(crate) path: PathBuf,

    /// List every tensor, and mark tensors with numbers that are not finite
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
