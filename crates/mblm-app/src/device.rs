//! Opens the device of `--device`.

use candle_core::Device;

use crate::options::DeviceArgs;
use crate::usage::Usage;

/// Opens the requested device.
pub fn open(args: &DeviceArgs) -> anyhow::Result<Device> {
    mblm::device::open(&args.device).map_err(|error| Usage(format!("--device: {error}")).into())
}

/// Returns the device's name for people.
pub fn name(device: &Device) -> String {
    mblm::device::name(device)
}
