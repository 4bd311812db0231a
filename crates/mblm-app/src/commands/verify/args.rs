//! The arguments of `mblm verify`.

use std::path::PathBuf;

use clap::Args;

use crate::options::DeviceArgs;

/// Check that this machine reproduces the numbers of fixture files
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mblm verify crates/mblm/tests/fixtures/*.safetensors

Errors are relative; those of losses (in nats) and of final weights are absolute. The place is that of the largest error.")]
pub(crate) struct VerifyArgs {
    /// Fixture files: safetensors with a model, its inputs and the numbers that a known-good run gave
    #[arg(required = true)]
    pub(crate) fixtures: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
