//! From `--device` to a device.

use candle_core::Device;

use crate::args::{DeviceArgs, Usage};

/// Opens the device that was asked for.
pub(crate) fn open(args: &DeviceArgs) -> anyhow::Result<Device> {
    match args.device.as_str() {
        "auto" | "cpu" => Ok(Device::Cpu),
        other if other == "cuda" || other.starts_with("cuda:") => Err(Usage(format!(
            "--device {other}: this program was built without CUDA; use --device cpu"
        ))
        .into()),
        other => Err(Usage(format!("--device {other}: expected auto, cpu or cuda:N")).into()),
    }
}

/// The device's name for people.
pub(crate) fn name(device: &Device) -> String {
    match device {
        Device::Cpu => format!("cpu, {} threads", mblm::threads()),
        other => format!("{:?}", other.location()),
    }
}
