//! Tiles: 16 rows of 16 VNNI pairs of bfloat16, or of 16 `f32` sums; and the unit that computes.

use crate::matrix::Dims;
use crate::processor::processor;

/// Rows and columns of C that the micro-kernel takes: two tiles each way.
pub(crate) const MR: usize = 2 * SIZE;
pub(crate) const NR: usize = 2 * SIZE;
/// Steps along k of a tile.
pub(super) const STEPS: usize = 2 * SIZE;
/// Rows of a tile, and pairs in each row.
pub(super) const SIZE: usize = 16;

/// Sixteen rows of sixteen VNNI pairs; the even step is in the low half.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Tile(pub(super) [[u32; SIZE]; SIZE]);

/// A micro-panel: (steps / 32, 2 tiles) of MR rows of A, or of NR columns of B.
pub(super) type MicroPanel = [[Tile; 2]];

/// The unit that multiplies tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TileUnit {
    /// True for the processor's AMX, false for the reference implementation.
    pub(super) native: bool,
}

impl TileUnit {
    /// The processor's unit, if it has one and the operating system lets this process use it.
    pub(crate) fn of_processor() -> Option<Self> {
        processor().amx.then_some(Self { native: true })
    }

    /// The processor's unit, if the product is large enough to be worth packing A and B.
    pub(crate) fn for_product(Dims { m, n, k }: Dims) -> Option<Self> {
        const MIN_SIZE: usize = 32;
        match m.min(n).min(k) >= MIN_SIZE {
            true => Self::of_processor(),
            false => None,
        }
    }

    /// The reference implementation in `f32` arithmetic, which is slow.
    #[cfg(test)]
    pub(crate) fn portable() -> Self {
        Self { native: false }
    }

    /// The processor's unit, or the reference implementation if there is none.
    #[cfg(test)]
    pub(crate) fn any() -> Self {
        Self::of_processor().unwrap_or(Self::portable())
    }
}
