//! The memory used by the process, or the GPU memory in use, in bytes.
//!
//! On Linux the kernel keeps the peaks; elsewhere they are the largest readings so far.

use candle_core::Device;

use crate::machine::memory::{MachineMemory, ProcessMemory};

/// A reading; `None` = unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Physical memory of the process.
    pub(super) resident: Option<u64>,
    /// Peak of `resident`.
    pub(super) resident_peak: Option<u64>,
    /// Address space of the process.
    pub(super) reserved: Option<u64>,
    /// Peak of `reserved`.
    pub(super) reserved_peak: Option<u64>,
    /// The machine's memory.
    pub(super) total: Option<u64>,
}

/// Returns the peak resident memory of this process in bytes, if the system reports it.
pub fn peak_resident() -> Option<u64> {
    Usage::read(&Usage::default()).resident_peak
}

impl Usage {
    /// Reads the memory of the device or, without its own, of the process, after the reading
    /// `before`.
    pub(super) fn on(device: Option<&Device>, before: &Self) -> Self {
        let memory = device.and_then(|device| crate::device::memory(device).ok().flatten());
        let Some((free, total)) = memory else {
            return Self::read(before);
        };
        let used = Some(total.saturating_sub(free) as u64);
        Self {
            resident: used,
            resident_peak: used.max(before.resident_peak),
            reserved: used,
            reserved_peak: used.max(before.reserved_peak),
            total: Some(total as u64),
        }
    }

    /// Reads the process's memory; `before` is the last reading.
    pub(super) fn read(before: &Self) -> Self {
        let Some(now) = ProcessMemory::now() else {
            return *before;
        };
        Self {
            resident: Some(now.resident),
            resident_peak: before.resident_peak.max(Some(now.resident_peak)),
            reserved: Some(now.reserved),
            reserved_peak: before.reserved_peak.max(Some(now.reserved_peak)),
            total: before.total.or_else(|| Some(MachineMemory::now().total)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_is_seen() {
        // other tests of this process allocate and free meanwhile: one of several tries succeeds
        let grows = |_| {
            let before = Usage::read(&Usage::default());
            let block = vec![1u8; 64 << 20];
            let during = Usage::read(&before);
            drop(std::hint::black_box(block));
            let grown = during.resident.unwrap() > before.resident.unwrap() + (32 << 20);
            grown.then_some(during)
        };
        let during = (0..50).find_map(grows).expect("64 MiB more are seen");
        let after = Usage::read(&during);
        assert!(after.resident_peak.unwrap() >= during.resident.unwrap());
        assert!(after.reserved_peak >= after.reserved && after.reserved > after.resident);
        assert!(after.total > after.resident, "{after:?}");
    }
}
