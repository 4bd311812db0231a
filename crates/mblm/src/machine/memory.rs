//! Memory in bytes: of the machine, and used by this process.
//!
//! On Linux the kernel keeps the peaks of a process (`/proc/self/status`) and its limits
//! (`/proc/self/limits`); elsewhere only the present values are known, and no limit.
//!
//! ```
//! use mblm::machine::memory::MachineMemory;
//!
//! let memory = MachineMemory::now();
//! assert!(memory.available <= memory.total);
//! ```

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineMemory {
    /// The total.
    pub total: u64,
    /// The part that can be allocated without taking memory from other processes.
    pub available: u64,
}

impl MachineMemory {
    /// Returns the present values.
    pub fn now() -> Self {
        let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(kind);
        Self {
            total: system.total_memory(),
            available: system.available_memory(),
        }
    }
}

/// Returns the bytes that this process can still allocate: the machine's available memory, swap
/// included, within the limits of the container (cgroup) and the process (`ulimit -v`). Beyond it
/// the process is killed without a message.
pub fn room() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let available = system.available_memory().saturating_add(system.free_swap());
    let container = system.cgroup_limits().map(|limits| {
        let left = limits.total_memory.saturating_sub(limits.rss);
        left.saturating_add(limits.free_swap)
    });
    let limits = match cfg!(target_os = "linux") {
        true => std::fs::read_to_string("/proc/self/limits").unwrap_or_default(),
        false => String::new(),
    };
    let own = address_space(&limits).map(|limit| {
        let taken = ProcessMemory::now().map_or(0, |memory| memory.resident);
        limit.saturating_sub(taken)
    });
    [container, own].into_iter().flatten().fold(available, u64::min)
}

/// Fewer bytes are not compared with [`room`], which takes longer to find than they take to fill.
const SMALL: u64 = 64 << 20;

/// Returns the [`room`] of this process if it is less than `needed` bytes; `None` if they fit.
pub fn shortage(needed: u64) -> Option<u64> {
    if needed < SMALL {
        return None;
    }
    Some(room()).filter(|room| needed > *room)
}

/// Returns the limit in a line such as `Max address space  4096000000  unlimited  bytes`, if any.
fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The memory used by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessMemory {
    /// Physical memory in use.
    pub resident: u64,
    /// The peak of `resident`, at least the present value.
    pub resident_peak: u64,
    /// Address space in use.
    pub reserved: u64,
    /// The peak of `reserved`, at least the present value.
    pub reserved_peak: u64,
}

impl ProcessMemory {
    /// Returns the present values; `None` if the system does not report them.
    pub fn now() -> Option<Self> {
        let pid = Pid::from_u32(std::process::id());
        let mut system = System::new();
        let memory = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, memory);
        let process = system.process(pid)?;
        let (resident, reserved) = (process.memory(), process.virtual_memory());
        let [resident_peak, reserved_peak] = peaks();
        Some(Self {
            resident,
            // the kernel may record a peak slightly below the value it reports elsewhere
            resident_peak: resident_peak.max(resident),
            reserved,
            reserved_peak: reserved_peak.max(reserved),
        })
    }
}

/// Returns the peaks recorded by the kernel, resident and reserved; 0 if it records none.
fn peaks() -> [u64; 2] {
    let status = match cfg!(target_os = "linux") {
        true => std::fs::read_to_string("/proc/self/status").unwrap_or_default(),
        false => String::new(),
    };
    ["VmHWM:", "VmPeak:"].map(|key| kibibytes(&status, key) * 1024)
}

/// Returns the number in a line such as `VmHWM:   12345 kB`.
fn kibibytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_read_from_the_lines_of_the_kernel() {
        let status = "Name:\tmblm\nVmPeak:\t    2048 kB\nVmHWM:\t      10 kB\n";
        assert_eq!((kibibytes(status, "VmPeak:"), kibibytes(status, "VmHWM:")), (2048, 10));
        assert_eq!(kibibytes(status, "VmSwap:"), 0);
    }

    #[test]
    fn a_limit_of_the_address_space_is_read_from_the_lines_of_the_kernel() {
        let of = |soft: &str| {
            address_space(&format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max resident set          5                    5                    bytes     \n\
                 Max address space         {soft:<20} unlimited            bytes     \n"
            ))
        };
        assert_eq!(of("4096000000"), Some(4_096_000_000));
        assert_eq!(of("unlimited"), None);
        assert_eq!(address_space(""), None);
        assert!(room() > 0);
    }

    #[test]
    fn a_process_takes_some_of_the_machine() {
        let (machine, process) = (MachineMemory::now(), ProcessMemory::now().unwrap());
        assert!(machine.available <= machine.total, "{machine:?}");
        assert!(0 < process.resident && process.resident < machine.total, "{process:?}");
    }
}
