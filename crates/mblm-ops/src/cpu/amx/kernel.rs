//! The innermost part: a block of 32 rows and 32 columns, whose sums stay in four tiles.

use super::Unit;
use super::strips::{LANES, Tile};
use crate::cpu::gemm::Start;

/// (steps, 2 tiles) of an operand.
pub(super) type Strip = [[Tile; 2]];

/// Where the sums of a block go.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from one row to the next.
    pub(super) stride: usize,
}

/// The sums of a block.
type Sums = [[f32; LANES]; LANES];

/// The tile registers of this thread, set up for as long as this lives.
pub(super) struct Tiles {
    unit: Unit,
    /// They belong to a thread.
    thread: std::marker::PhantomData<*const ()>,
}

impl Tiles {
    pub(super) fn new(unit: Unit) -> Self {
        #[cfg(target_arch = "x86_64")]
        if unit.native {
            /// Palette 1: eight tiles of 16 rows of 64 bytes.
            #[repr(align(64))]
            struct Configuration([u8; 64]);
            let mut configuration = Configuration([0; 64]);
            configuration.0[0] = 1;
            for tile in 0..8 {
                configuration.0[16 + 2 * tile] = 64;
                configuration.0[48 + tile] = 16;
            }
            // SAFETY: the processor has tiles and the operating system lets us use them; the layout is the documented one.
            unsafe {
                std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
            }
        }
        Self {
            unit,
            thread: std::marker::PhantomData,
        }
    }

    /// The block at `out` = start + the product of two strips with equally many tiles.
    ///
    /// # Safety
    /// Rows and columns of the block may be written; to be [`Start::Held`] they hold numbers.
    pub(super) unsafe fn multiply(&self, a: &Strip, b: &Strip, start: Start<f32>, out: *mut f32, block: Block) {
        const ZEROS: &[f32; LANES] = &[0.0; LANES];
        let whole = block.rows == LANES && block.columns == LANES;
        if whole && self.unit.native {
            let from = match start {
                Start::Zero => (ZEROS.as_ptr(), 0),
                Start::Row(row) => (row[..LANES].as_ptr(), 0),
                Start::Held => (out.cast_const(), block.stride),
            };
            // SAFETY: a whole block may be read, or 32 numbers for every row, and written.
            unsafe { native(a, b, from, (out, block.stride)) };
            return;
        }
        let mut sums: Sums = [[0.0; LANES]; LANES];
        if self.unit.native {
            let sums = sums.as_mut_ptr().cast::<f32>();
            // SAFETY: the sums are 32 rows of 32.
            unsafe { native(a, b, (sums, LANES), (sums, LANES)) };
        } else {
            portable(a, b, &mut sums);
        }
        for (row, sums) in sums[..block.rows].iter().enumerate() {
            for (column, sum) in sums[..block.columns].iter().enumerate() {
                // SAFETY: the caller's word.
                unsafe {
                    let out = out.add(row * block.stride + column);
                    out.write(match start {
                        Start::Zero => *sum,
                        Start::Row(row) => row[column] + *sum,
                        Start::Held => *out + *sum,
                    });
                }
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.unit.native {
            // SAFETY: nothing of the tiles is used after the last product.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// Whether processor and operating system let this process use the tiles.
pub(super) fn is_native() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        /// The state of tiles is larger than others, and is asked for (Documentation/arch/x86/xstate.rst of Linux).
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const TILE_DATA: libc::c_ulong = 18;
        // a processor with AVX-512-BF16 has leaf 7
        is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && std::arch::x86_64::__cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
            // SAFETY: the call takes two numbers and changes what this process may use, nothing else.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

/// 32 rows of 32 numbers at `to` = those at `from` + a · b; both are a first number and the elements from one row to the next.
///
/// # Safety
/// The tiles are set up; both places may be read, the second one written.
#[cfg(target_arch = "x86_64")]
unsafe fn native(a: &Strip, b: &Strip, from: (*const f32, usize), to: (*mut f32, usize)) {
    assert!(a.len() == b.len() && !a.is_empty());
    // SAFETY: the caller's word; of the strips nothing beyond their equal length is read.
    unsafe {
        std::arch::asm!(
            "tileloadd tmm0, [{from} + {from_row}]",
            "tileloadd tmm1, [{from} + {from_row} + 64]",
            "tileloadd tmm2, [{from_low} + {from_row}]",
            "tileloadd tmm3, [{from_low} + {from_row} + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm7, [{b} + {row} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, {step}",
            "add {b}, {step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{to} + {to_row}], tmm0",
            "tilestored [{to} + {to_row} + 64], tmm1",
            "tilestored [{to_low} + {to_row}], tmm2",
            "tilestored [{to_low} + {to_row} + 64], tmm3",
            from = in(reg) from.0,
            from_low = in(reg) from.0.wrapping_add(16 * from.1),
            from_row = in(reg) 4 * from.1,
            to = in(reg) to.0,
            to_low = in(reg) to.0.wrapping_add(16 * to.1),
            to_row = in(reg) 4 * to.1,
            row = in(reg) 64usize,
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            steps = inout(reg) a.len() => _,
            step = const 2 * size_of::<Tile>(),
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn native(_: &Strip, _: &Strip, _: (*const f32, usize), _: (*mut f32, usize)) {
    unreachable!("`is_native` says that there are no tiles");
}

/// `sums` += a · b in `f32` arithmetic: slow, and what the native one is tested against.
fn portable(a: &Strip, b: &Strip, sums: &mut Sums) {
    let half = |pair: u32, odd: bool| f32::from_bits(if odd { pair & 0xffff_0000 } else { pair << 16 });
    for (a, b) in a.iter().zip(b) {
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = &a[row / 16].0[row % 16];
            for (column, sum) in sums.iter_mut().enumerate() {
                for (pair, a) in a.iter().enumerate() {
                    let b = b[column / 16].0[pair][column % 16];
                    *sum += half(*a, false) * half(b, false) + half(*a, true) * half(b, true);
                }
            }
        }
    }
}
