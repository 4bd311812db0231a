//! Checks whether a training step fits into memory, before anything is allocated.

use candle_core::Device;

use mblm::config::ByteSize;
use mblm::machine::memory::shortage;
use mblm::train::{MemoryEstimate, Workload};
use mblm::{Error, Result};

/// Fails if a step of `work`, including the model, needs more memory than is available on the CPU,
/// where the system would kill the process during training. A GPU reports the error itself.
///
/// # Errors
/// Gives the memory needed and available, the largest consumers, and the settings that lower them.
pub(crate) fn check_room(work: &Workload<'_>, device: &Device) -> Result<()> {
    let estimate = MemoryEstimate::of(work);
    let needed = estimate.total();
    let Some(room) = device.is_cpu().then(|| shortage(needed)).flatten() else {
        return Ok(());
    };
    let consumers = estimate.consumers().into_iter().take(3);
    let largest: Vec<String> = consumers
        .map(|(what, bytes, settings)| format!("{what} {} ({settings})", ByteSize::b(bytes)))
        .collect();
    Err(Error::OutOfMemory(format!(
        "training needs about {}, but only {} are available to this process: {}; lower the settings in parentheses",
        ByteSize::b(needed),
        ByteSize::b(room),
        largest.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mblm::config::{Architecture, ModelConfig, Precision};
    use mblm::model::Chunking;

    #[test]
    fn what_does_not_fit_is_said_with_what_lowers_it() {
        let check = |dim: usize, batch_size: usize| {
            let architecture: Architecture = ModelConfig::new([8, 4]).dims([dim, 256]).into();
            let work = Workload {
                architecture: &architecture,
                batch_size,
                len: 32,
                precision: Precision::Auto,
                gpu: false,
                chunking: Chunking::default(),
                moments: 2,
            };
            check_room(&work, &Device::Cpu).map_err(|error| error.to_string())
        };
        assert_eq!(check(256, 4), Ok(()));
        let message = check(8_000_000, 4).unwrap_err();
        assert!(
            message.contains("PiB") && message.contains("params.hidden_dims"),
            "{message}"
        );
        let message = check(256, 1 << 36).unwrap_err();
        assert!(
            message.contains("TiB") && message.contains("train.batch_size"),
            "{message}"
        );
    }
}
