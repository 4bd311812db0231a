//! The machine: its memory, its processor's name, and its measured peak speed.
//!
//! | file | holds |
//! |---|---|
//! | [`memory`] | the machine's memory and this process's share |
//! | [`speed`] | a plain matrix product and a copy |
//!
//! ```
//! println!("{}", mblm::machine::processor().unwrap_or_default());
//! ```

pub mod memory;
pub mod speed;

/// Returns the processor's name, if the system reports it.
pub fn processor() -> Option<String> {
    let kind = sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing());
    let system = sysinfo::System::new_with_specifics(kind);
    system.cpus().first().map(|cpu| cpu.brand().trim().to_string())
}
