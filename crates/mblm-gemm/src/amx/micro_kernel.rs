//! The micro-kernel: a micro-tile of C of 32 × 32 numbers, whose sums stay in four tiles.

use super::tile::{MR, MicroPanel, NR, SIZE, Tile, TileUnit};
use crate::matrix::{Beta, MatrixPtr};

/// The sums of a micro-tile.
type Sums = [[f32; NR]; MR];

/// The tile registers of this thread, configured while this value lives.
pub(super) struct TileRegisters {
    unit: TileUnit,
    /// Tile registers belong to one thread, so this type is neither `Send` nor `Sync`.
    thread: std::marker::PhantomData<*const ()>,
}

impl TileRegisters {
    pub(super) fn new(unit: TileUnit) -> Self {
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
            // SAFETY: the processor has tiles and the operating system lets us use them; the layout
            // is the documented one.
            unsafe {
                std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
            }
        }
        Self {
            unit,
            thread: std::marker::PhantomData,
        }
    }

    /// C (`rows`, `columns`) = β C + A B of two micro-panels with equally many tiles.
    ///
    /// There are at most MR rows and NR columns.
    ///
    /// # Safety
    /// C may be written; for [`Beta::One`] it holds numbers.
    pub(super) unsafe fn multiply(
        &self,
        a: &MicroPanel,
        b: &MicroPanel,
        beta: Beta<f32>,
        c: MatrixPtr<f32>,
        rows: usize,
        columns: usize,
    ) {
        const ZEROS: &[f32; NR] = &[0.0; NR];
        let whole = rows == MR && columns == NR;
        if whole && self.unit.native {
            let from = match beta {
                Beta::Zero => (ZEROS.as_ptr(), 0),
                Beta::Bias(bias) => (bias[..NR].as_ptr(), 0),
                Beta::One => (c.data.cast_const(), c.row_stride),
            };
            // SAFETY: a whole micro-tile may be read, or 32 numbers for every row, and written.
            unsafe { native(a, b, from, (c.data, c.row_stride)) };
            return;
        }
        let mut sums: Sums = [[0.0; NR]; MR];
        if self.unit.native {
            let sums = sums.as_mut_ptr().cast::<f32>();
            // SAFETY: the sums are 32 rows of 32.
            unsafe { native(a, b, (sums, NR), (sums, NR)) };
        } else {
            portable(a, b, &mut sums);
        }
        for (row, sums) in sums[..rows].iter().enumerate() {
            for (column, sum) in sums[..columns].iter().enumerate() {
                // SAFETY: the caller's word.
                unsafe {
                    let c = c.data.add(row * c.row_stride + column);
                    c.write(match beta {
                        Beta::Zero => *sum,
                        Beta::Bias(bias) => bias[column] + *sum,
                        Beta::One => *c + *sum,
                    });
                }
            }
        }
    }
}

impl Drop for TileRegisters {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.unit.native {
            // SAFETY: nothing of the tiles is used after the last product.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// Writes 32 rows of 32 numbers: `to` = `from` + a · b.
///
/// `to` and `from` are a pointer to the first number and the row stride in elements.
///
/// # Safety
/// The tile registers are configured; `from` may be read and `to` written.
#[cfg(target_arch = "x86_64")]
unsafe fn native(a: &MicroPanel, b: &MicroPanel, from: (*const f32, usize), to: (*mut f32, usize)) {
    assert!(a.len() == b.len() && !a.is_empty());
    // SAFETY: the caller's word; of the micro-panels nothing beyond their equal length is read.
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
unsafe fn native(_: &MicroPanel, _: &MicroPanel, _: (*const f32, usize), _: (*mut f32, usize)) {
    unreachable!("`processor` says that there are no tiles");
}

/// The reference implementation, in `f32` arithmetic: `sums` += a · b.
fn portable(a: &MicroPanel, b: &MicroPanel, sums: &mut Sums) {
    let half = |pair: u32, odd: bool| f32::from_bits(if odd { pair & 0xffff_0000 } else { pair << 16 });
    for (a, b) in a.iter().zip(b) {
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = &a[row / SIZE].0[row % SIZE];
            for (column, sum) in sums.iter_mut().enumerate() {
                for (pair, a) in a.iter().enumerate() {
                    let b = b[column / SIZE].0[pair][column % SIZE];
                    *sum += half(*a, false) * half(b, false) + half(*a, true) * half(b, true);
                }
            }
        }
    }
}
