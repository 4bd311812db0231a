//! What a block costs before it is built: parameters, multiplications and memory, from its keys and its stage's width.

/// Parameters and multiplications of a stack of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCost {
    /// Parameters of all layers and of what stands after them.
    pub parameters: u64,
    /// Multiplications, each with an addition, of matrices with one row of activations, forward: the elements of all matrices.
    pub multiplications: u64,
}

/// The rows whose memory is in question.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MemoryArgs {
    /// Width of the stage.
    pub dim: usize,
    /// Positions of a sequence that are computed at once.
    pub positions: usize,
    /// Bytes of an element of the activations.
    pub element: f64,
    /// Whether a GPU computes.
    pub gpu: bool,
}

impl MemoryArgs {
    /// Rows of width `dim`, `positions` a sequence, in elements of `element` bytes.
    pub fn new(dim: usize, positions: usize, element: f64, gpu: bool) -> Self {
        Self {
            dim,
            positions,
            element,
            gpu,
        }
    }
}

/// What one layer takes in training, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockMemory {
    /// Kept for each row from the forward to the backward pass.
    pub row: f64,
    /// A sequence's state, without what grows with its positions.
    pub state: f64,
    /// What a position adds to the state and to its gradient.
    pub position: f64,
}

impl BlockMemory {
    /// A guess for a block of which nothing is known: sixteen rows in float32.
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
