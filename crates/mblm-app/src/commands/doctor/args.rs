//! The arguments of `mblm doctor`.

use clap::Args;

/// Show what this machine has, and check that the program computes rightly on it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm doctor
  mblm doctor --device cuda:1 --json

Exit code 0: everything that was checked computes rightly; 1: something does not. A missing GPU is no failure.
Speeds are medians of a few repetitions; a GB is 10⁹ bytes, read and written.")]
pub(crate) struct DoctorArgs {
    /// Check this device only: cpu, cuda or cuda:N [default: the CPU and every CUDA device]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
