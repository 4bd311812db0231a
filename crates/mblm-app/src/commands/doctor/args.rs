//! The arguments of `mblm doctor`.

use clap::Args;

/// Show this machine's hardware and check that the program computes correctly on it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm doctor
  mblm doctor --device cuda:1 --json

The exit code is 0 if all checks pass and 1 if a check fails. A missing GPU is no failure.
Speeds are medians of a few repetitions. Memory speeds count bytes read and bytes written; a GB is 10⁹ bytes.")]
pub(crate) struct DoctorArgs {
    /// Check only this device: cpu, cuda or cuda:N [default: the CPU and every CUDA device]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
