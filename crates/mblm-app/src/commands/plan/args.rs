//! The arguments of `mblm plan`.

use std::path::PathBuf;

use clap::Args;
use mblm::config::ByteSize;

use crate::options::{DeviceArgs, byte_size};

/// Show how much memory a training step takes, and the longest context that fits
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm plan configs/quickstart.yaml --memory 2GiB
  mblm plan my.yaml --set params.input_seq_len=104857600 --memory 40GiB --gpu

The memory is that of one training step. On a GPU it includes the driver and libraries; on the CPU it excludes the program.")]
pub(crate) struct PlanArgs {
    /// Configuration file (YAML)
    pub(crate) config: PathBuf,

    /// Change a value of the configuration, such as train.batch_size=1; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,

    /// The most memory that a step may take, such as 40GiB [default: the configuration's
    /// train.memory, else the free memory of the GPU or the available memory of the machine]
    #[arg(long, value_name = "BYTES", value_parser = byte_size)]
    pub(crate) memory: Option<ByteSize>,

    /// Plan for a GPU of another machine; needs --memory
    #[arg(long, requires = "memory", conflicts_with = "device")]
    pub(crate) gpu: bool,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
