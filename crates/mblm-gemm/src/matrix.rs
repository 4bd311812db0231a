//! Matrices in slices, and how products use them.
//!
//! C = β C + A B, with A (m, k), B (k, n), C (m, n).

/// A matrix to read: element (i, j) is `data[i · row_stride + j · column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    /// The elements, from element (0, 0) on.
    pub data: &'a [T],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` with these strides.
    pub fn new(data: &'a [T], row_stride: usize, column_stride: usize) -> Self {
        Self {
            data,
            row_stride,
            column_stride,
        }
    }

    /// The transpose; it shares the elements.
    pub fn transposed(self) -> Self {
        Self::new(self.data, self.column_stride, self.row_stride)
    }

    /// The part of the matrix from element (`row`, `column`) on.
    pub(crate) fn starting_at(self, row: usize, column: usize) -> Self {
        let start = row * self.row_stride + column * self.column_stride;
        Self::new(&self.data[start..], self.row_stride, self.column_stride)
    }

    /// Whether `data` has every element of a matrix of at least one row and one column.
    pub(crate) fn covers(&self, rows: usize, columns: usize) -> bool {
        self.data.len() > (rows - 1) * self.row_stride + (columns - 1) * self.column_stride
    }
}

/// A matrix to write: element (i, j) is `data[i · row_stride + j]`.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    /// The elements, from element (0, 0) on.
    pub data: &'a mut [T],
    /// Elements from one row to the next; at least the number of columns.
    pub row_stride: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    /// `data` with rows that begin `row_stride` elements apart.
    pub fn new(data: &'a mut [T], row_stride: usize) -> Self {
        Self { data, row_stride }
    }
}

/// A [`MatrixMut`] that may be uninitialized, and whose blocks several threads may write.
#[derive(Clone, Copy)]
pub(crate) struct MatrixPtr<T> {
    pub(crate) data: *mut T,
    pub(crate) row_stride: usize,
}

// SAFETY: whoever writes through it says why nobody else uses the elements that it writes.
unsafe impl<T: Send> Sync for MatrixPtr<T> {}

impl<T> MatrixPtr<T> {
    /// The part of the matrix from element (`row`, `column`) on.
    ///
    /// # Safety
    /// The element belongs to the matrix.
    pub(crate) unsafe fn starting_at(&self, row: usize, column: usize) -> Self {
        Self {
            // SAFETY: the caller's word.
            data: unsafe { self.data.add(row * self.row_stride + column) },
            row_stride: self.row_stride,
        }
    }
}

/// The sizes of a product: A (m, k) · B (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A and rows of B, which the product sums over.
    pub k: usize,
}

impl Dims {
    /// A (m, k) · B (k, n).
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        Self { m, n, k }
    }
}

/// The value that the product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Beta<'a, T> {
    /// β = 0: nothing is added. C may be uninitialized.
    Zero,
    /// β = 1: C's current value.
    One,
    /// The bias (n), the same for every row of C. C may be uninitialized.
    Bias(&'a [T]),
}

impl<T> Beta<'_, T> {
    /// The same for the columns of C from `column` on.
    pub(crate) fn starting_at(self, column: usize) -> Self {
        match self {
            Self::Bias(bias) => Self::Bias(&bias[column..]),
            other => other,
        }
    }
}

/// How many threads a product uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread only: for a task of a parallel loop.
    One,
    /// All threads of the calling thread's pool.
    All,
}
