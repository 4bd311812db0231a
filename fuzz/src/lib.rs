//! Helpers of the fuzz targets: loading every tensor of a file, and an allocator that ends the
//! process when an input requests too much memory.
//!
//! The limit of one input of n bytes is `64 MiB + 20 · n` above the memory in use before.
//! libFuzzer's own limit needs a sanitizer, which needs an unstable compiler. Only `-rss_limit_mb`
//! sees memory that C code (zstd) requests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device};
use mblm::checkpoint::{StoredType, Weights};

/// Memory that an input may use beyond a multiple of its length: buffers of fixed size, tables of
/// the code.
const FIXED: usize = 64 << 20;
/// Bytes that an input may use for each of its bytes.
const PER_BYTE: usize = 20;

/// Counts the bytes in use and aborts above a limit, so that libFuzzer keeps the input as a crash.
struct Limited {
    used: AtomicUsize,
    limit: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Limited = Limited {
    used: AtomicUsize::new(0),
    limit: AtomicUsize::new(usize::MAX),
};

impl Limited {
    fn add(&self, size: usize) {
        let used = self.used.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        // The limit is lifted first: the message allocates as well.
        if used > self.limit.load(Ordering::Relaxed) && self.limit.swap(usize::MAX, Ordering::Relaxed) != usize::MAX {
            eprintln!("runaway allocation: {used} bytes are in use with another {size}");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes to the system's allocator as it came; only sizes are counted.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.add(size.saturating_sub(layout.size()));
        self.used
            .fetch_sub(layout.size().saturating_sub(size), Ordering::Relaxed);
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `read` on an input of `length` bytes within the limit of memory.
pub fn limited(length: usize, read: impl FnOnce()) {
    let used = ALLOCATOR.used.load(Ordering::Relaxed);
    let limit = used + FIXED + PER_BYTE * length;
    ALLOCATOR.limit.store(limit, Ordering::Relaxed);
    read();
    ALLOCATOR.limit.store(usize::MAX, Ordering::Relaxed);
}

/// Loads every tensor of a file, in its own type and in a narrower type.
///
/// # Panics
/// A tensor of the file does not load: opening a file already checks it.
pub fn load_all(weights: &Weights) {
    let names: Vec<&str> = weights.names().collect();
    for name in &names {
        let (Some(shape), Some(stored)) = (weights.shape(name), weights.dtype(name)) else {
            panic!("`{name}` is named and has neither shape nor type");
        };
        let float = matches!(
            stored,
            StoredType::F16 | StoredType::BF16 | StoredType::F32 | StoredType::F64
        );
        for dtype in [DType::F32, DType::BF16] {
            let loaded = weights.load(name, shape, dtype, &Device::Cpu);
            assert_eq!(loaded.is_ok(), float, "`{name}`: {loaded:?}");
        }
        let _ = weights.load(name, &[1, 2, 3], DType::F32, &Device::Cpu);
    }
    // The message names the nearest of all tensor names.
    let _ = weights.load("to_logits.weights", &[1], DType::F32, &Device::Cpu);
}
