//! Processor features, detected once: detection leaves a virtual machine and needs a system call.

use std::sync::OnceLock;

/// The features that the processor and the operating system let this process use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processor {
    /// Intel's AMX tiles for bfloat16, and the AVX-512 instructions that fill them.
    pub amx: bool,
    /// AVX-512 instructions that multiply pairs of bfloat16 numbers.
    pub avx512_bf16: bool,
    /// Whether these instructions multiply bfloat16 faster than `f32`. True on AMD.
    ///
    /// False on Intel: on a processor that issues half as many of them per cycle, training took 1.6
    /// times as long as with `f32`.
    pub avx512_bf16_is_fast: bool,
}

impl Processor {
    /// Whether [`bf16`](crate::bf16) products are faster than exact `f32` products.
    pub fn bf16_is_fast(&self) -> bool {
        self.amx || self.avx512_bf16_is_fast
    }
}

/// The processor that this process runs on.
///
/// ```
/// let processor = mblm_gemm::processor();
/// assert_eq!(processor.bf16_is_fast(), processor.amx || processor.avx512_bf16_is_fast);
/// ```
pub fn processor() -> &'static Processor {
    static PROCESSOR: OnceLock<Processor> = OnceLock::new();
    PROCESSOR.get_or_init(|| {
        let avx512_bf16 = has_avx512_bf16();
        Processor {
            amx: may_use_amx(),
            avx512_bf16,
            avx512_bf16_is_fast: avx512_bf16 && is_amd(),
        }
    })
}

fn has_avx512_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx]
            .map(u32::to_le_bytes)
            .as_flattened()
            == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether the processor has bfloat16 tiles; asks the operating system for permission to use them.
fn may_use_amx() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        const AMX_BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        /// Tile registers are large, so a process must request them (Linux:
        /// Documentation/arch/x86/xstate.rst).
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // a processor with AVX-512-BF16 has leaf 7
        is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16_AND_TILES == AMX_BF16_AND_TILES
            // SAFETY: the call takes two numbers and changes what this process may use, nothing
            // else.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}
