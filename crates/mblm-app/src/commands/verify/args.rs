//! The arguments of `mblm verify`.

use std::path::PathBuf;

use clap::Args;

use crate::options::DeviceArgs;

/// Check that this machine reproduces the numbers of fixture files
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mblm verify crates/mblm/tests/fixtures/*.safetensors

Errors are relative, except for losses (in nats) and final weights, whose errors are absolute. The place
shown is where the error is largest.")]
pub(crate) struct VerifyArgs {
    /// Fixture files: safetensors with a model, its inputs and the outputs of a known-good run
    #[arg(required = true)]
    pub(crate) fixtures: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
