//! The machine: its memory, its processor's name, and by the clock how fast it is at most.
//!
//! | file | holds |
//! |---|---|
//! | [`memory`] | what the machine has and what this process takes |
//! | [`speed`] | a plain matrix product and a copy |
//!
//! ```
//! println!("{}", mblm::machine::processor().unwrap_or_default());
//! ```

pub mod memory;
pub mod speed;

/// The processor's name, where the system tells it.
pub fn processor() -> Option<String> {
    let kind = sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing());
    let system = sysinfo::System::new_with_specifics(kind);
    system.cpus().first().map(|cpu| cpu.brand().trim().to_string())
}
