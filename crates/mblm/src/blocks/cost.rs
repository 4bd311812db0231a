//! The cost of a block before it is built: parameters, multiplications and memory.

/// Parameters and multiplications of a stack of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCost {
    /// Parameters of all layers and of anything after them.
    pub parameters: u64,
    /// Multiply-adds of one row's forward pass: the elements of all matrices.
    pub multiplications: u64,
}

/// The rows to estimate memory for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemoryArgs {
    /// Width of the stage.
    pub dim: usize,
    /// Positions of a sequence computed at once.
    pub positions: usize,
    /// Bytes of an element of the activations.
    pub element: f64,
    /// Whether the device is a GPU.
    pub gpu: bool,
}

impl MemoryArgs {
    /// Rows of width `dim`, `positions` per sequence, in elements of `element` bytes.
    pub fn new(dim: usize, positions: usize, element: f64, gpu: bool) -> Self {
        Self {
            dim,
            positions,
            element,
            gpu,
        }
    }
}

/// The memory of one layer in training, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockMemory {
    /// Kept for each row from the forward to the backward pass.
    pub row: f64,
    /// The state of a sequence, without the part that grows with its positions.
    pub state: f64,
    /// The growth of the state and its gradient per position.
    pub position: f64,
}

impl BlockMemory {
    /// A guess for a block of unknown cost: sixteen rows in float32.
    pub fn unknown(dim: usize) -> Self {
        let rows = FLOAT * 16.0 * dim as f64;
        Self {
            row: rows,
            state: rows,
            position: 0.0,
        }
    }
}

/// Bytes of a float32.
pub(super) const FLOAT: f64 = 4.0;

/// A number of parameters, with saturating sums and products.
#[derive(Clone, Copy)]
pub(crate) struct Count(pub(crate) u64);

impl Count {
    pub(crate) const TWO: Self = Self(2);

    pub(crate) fn of(number: usize) -> Self {
        Self(number as u64)
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Mul for Count {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self(self.0.saturating_mul(other.0))
    }
}
