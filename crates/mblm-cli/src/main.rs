//! The `mblm` command: trains, runs and evaluates hierarchical language models over raw bytes.

use std::process::ExitCode;

/// Every operation makes a new tensor; this allocator keeps their memory, where the system's gives large blocks back and
/// pays for fresh pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells the allocator to keep memory that was freed. A step frees and takes the same large buffers again; memory that went back to
/// the system in between has to be cleared, page by page, each time. `MIMALLOC_PURGE_DELAY` has the last word.
fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name; -1 is never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number inside the allocator; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

fn main() -> ExitCode {
    keep_freed_memory();
    mblm_cli::app().run()
}
