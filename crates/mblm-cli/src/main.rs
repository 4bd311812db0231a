//! The `mblm` command: trains, runs and evaluates hierarchical language models over raw bytes.

use std::process::ExitCode;

/// An allocator that keeps freed memory. Every operation makes a new tensor, and the system's
/// allocator returns large blocks, which costs fresh pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells the allocator to keep freed memory. A step frees and allocates the same large buffers
/// again, and memory that was returned to the system must be cleared page by page each time.
/// `MIMALLOC_PURGE_DELAY` overrides this.
fn keep_freed_memory() {
    /// The option `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name; -1
    /// means never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number inside the allocator; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

fn main() -> ExitCode {
    keep_freed_memory();
    mblm_cli::app().run()
}
