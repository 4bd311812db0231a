//! Matrix products C = β C + A B of strided matrices, one block of C per thread.
//!
//! A block is multiplied by the `gemm` crate, or by AMX tiles ([`crate::amx`]) if it is rounded to
//! bfloat16.
//!
//! The `gemm` crate always packs B. It packs A if the elements of A's rows are not contiguous and C
//! has many columns. So partitions cut columns rather than rows, and a non-contiguous A is
//! multiplied by few columns at a time.

use std::any::TypeId;

use rayon::prelude::*;

use crate::amx;
use crate::amx::TileUnit;
use crate::matrix::{Beta, Dims, Matrix, MatrixMut, MatrixPtr, Threads};
use crate::parallel::{threads, zeros};
use crate::partition::{Partition, part};
use crate::real::Real;

/// Columns of C in a micro-kernel of the `gemm` crate.
const NR: usize = 16;

/// The `gemm` crate packs B.
///
/// For a result (2048, 256), parts of 1024 rows take the same time as parts of 128 columns.
const GEMM_CRATE: Partition = Partition {
    mr: 6,
    nr: NR,
    b_cost: 8,
};
/// Tiles need both A and B packed.
const TILES: Partition = Partition {
    mr: amx::MR,
    nr: amx::NR,
    b_cost: 1,
};

/// Columns of C, and steps along k, at a time for an A whose steps along k are not contiguous.
///
/// With so few columns the `gemm` crate does not pack A; with so few steps, the part of A that it
/// rereads for every few rows stays in the cache.
const NC_UNPACKED_A: usize = 128;
const KC_UNPACKED_A: usize = 256;

/// The backend that multiplies a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The `gemm` crate.
    GemmCrate,
    /// AMX tiles, which round `f32` to bfloat16.
    Tiles(TileUnit),
}

impl Backend {
    fn partition(self) -> Partition {
        match self {
            Self::GemmCrate => GEMM_CRATE,
            Self::Tiles(_) => TILES,
        }
    }
}

/// A new C (m, n) = bias + A B in row-major order, computed on all threads.
///
/// The row `bias` (n) is added to every row of C, if given.
///
/// ```
/// use mblm_gemm::{Dims, Matrix, product};
///
/// let a = Matrix::new(&[1.0, 2.0, 3.0, 4.0], 2, 1); // (2, 2)
/// let b = Matrix::new(&[1.0, 10.0], 1, 1); // (2, 1)
/// assert_eq!(product(None, Dims::new(2, 1, 2), a, b), [21.0, 43.0]);
/// ```
pub fn product<T: Real>(bias: Option<&[T]>, dims: Dims, a: Matrix<T>, b: Matrix<T>) -> Vec<T> {
    product_by(Backend::GemmCrate, bias, dims, a, b)
}

/// [`product`] with a given backend.
pub(crate) fn product_by<T: Real>(
    backend: Backend,
    bias: Option<&[T]>,
    dims: Dims,
    a: Matrix<T>,
    b: Matrix<T>,
) -> Vec<T> {
    let Dims { m, n, k } = dims;
    assert!(bias.is_none_or(|bias| bias.len() == n));
    if k == 0 {
        return bias.map_or_else(|| zeros(m * n), |bias| bias.repeat(m));
    }
    let mut out = Vec::with_capacity(m * n);
    let new = MatrixPtr {
        data: out.spare_capacity_mut()[..m * n].as_mut_ptr().cast(),
        row_stride: n,
    };
    let beta = bias.map_or(Beta::Zero, Beta::Bias);
    // SAFETY: the rows are n elements long and n apart.
    unsafe { multiply(backend, new, beta, dims, a, b, Threads::All) };
    // SAFETY: a product that does not add to what C holds has written all of it.
    unsafe { out.set_len(m * n) };
    out
}

/// C (m, n) = β C + A B.
///
/// ```
/// use mblm_gemm::{Beta, Dims, Matrix, MatrixMut, Threads, product_into};
///
/// let (a, b) = (Matrix::new(&[1.0, 2.0], 2, 1), Matrix::new(&[3.0, 4.0], 1, 1)); // (1, 2) and (2, 1)
/// let mut c = [100.0];
/// product_into(MatrixMut::new(&mut c, 1), Beta::One, Dims::new(1, 1, 2), a, b, Threads::One);
/// assert_eq!(c, [111.0]);
/// ```
pub fn product_into<T: Real>(c: MatrixMut<T>, beta: Beta<T>, dims: Dims, a: Matrix<T>, b: Matrix<T>, threads: Threads) {
    product_into_by(Backend::GemmCrate, c, beta, dims, a, b, threads);
}

/// [`product_into`] with a given backend.
pub(crate) fn product_into_by<T: Real>(
    backend: Backend,
    c: MatrixMut<T>,
    beta: Beta<T>,
    dims: Dims,
    a: Matrix<T>,
    b: Matrix<T>,
    threads: Threads,
) {
    let Dims { m, n, k } = dims;
    if m == 0 || n == 0 {
        return;
    }
    let MatrixMut { data, row_stride } = c;
    if let Beta::Bias(bias) = beta {
        assert_eq!(bias.len(), n);
    }
    assert!(row_stride >= n && data.len() >= (m - 1) * row_stride + n);
    if k == 0 {
        for row in data.chunks_mut(row_stride).take(m) {
            match beta {
                Beta::Zero => row[..n].fill(T::zero()),
                Beta::Bias(bias) => row[..n].copy_from_slice(bias),
                Beta::One => {}
            }
        }
        return;
    }
    let c = MatrixPtr {
        data: data.as_mut_ptr(),
        row_stride,
    };
    // SAFETY: the assertion above keeps every element that is written inside `data`, which is
    // borrowed mutably.
    unsafe { multiply(backend, c, beta, dims, a, b, threads) }
}

/// [`product_into`] for at least one step along k.
///
/// # Safety
/// Every element of C may be written, and nobody else uses it; for [`Beta::One`] it holds a number.
unsafe fn multiply<T: Real>(
    backend: Backend,
    c: MatrixPtr<T>,
    beta: Beta<T>,
    dims: Dims,
    a: Matrix<T>,
    b: Matrix<T>,
    use_threads: Threads,
) {
    let Dims { m, n, k } = dims;
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.covers(m, k) && b.covers(k, n));
    let partition = backend.partition();
    let (down, across) = match use_threads {
        Threads::All => partition.counts(dims, threads()),
        Threads::One => (1, 1),
    };
    let c = &c; // else the closure would capture the raw pointer, which is not `Sync`
    let multiply_block = |index: usize| {
        let rows = part(m, partition.mr, index / across, down);
        let columns = part(n, partition.nr, index % across, across);
        let dims = Dims::new(rows.len(), columns.len(), k);
        let beta = match beta {
            Beta::Bias(bias) => Beta::Bias(&bias[columns.clone()]),
            other => other,
        };
        let (a, b) = (a.starting_at(rows.start, 0), b.starting_at(0, columns.start));
        // SAFETY: the caller's word; blocks have no element in common.
        unsafe {
            let c = c.starting_at(rows.start, columns.start);
            match backend {
                Backend::GemmCrate => by_gemm_crate(c, beta, dims, a, b),
                Backend::Tiles(unit) => in_tiles(unit, c, beta, dims, a, b),
            }
        }
    };
    match down * across {
        1 => multiply_block(0),
        blocks => (0..blocks).into_par_iter().with_max_len(1).for_each(multiply_block),
    }
}

/// [`amx::multiply`] where T is `f32`.
///
/// # Safety
/// As for [`multiply`].
unsafe fn in_tiles<T: Real>(unit: TileUnit, c: MatrixPtr<T>, beta: Beta<T>, dims: Dims, a: Matrix<T>, b: Matrix<T>) {
    fn single<T: Real>(numbers: &[T]) -> &[f32] {
        assert_eq!(TypeId::of::<T>(), TypeId::of::<f32>());
        // SAFETY: T is `f32`.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
    }
    let beta = match beta {
        Beta::Zero => Beta::Zero,
        Beta::One => Beta::One,
        Beta::Bias(bias) => Beta::Bias(single(bias)),
    };
    let [a, b] = [a, b].map(|matrix| Matrix::new(single(matrix.data), matrix.row_stride, matrix.column_stride));
    let c = MatrixPtr {
        data: c.data.cast(),
        row_stride: c.row_stride,
    };
    // SAFETY: the caller's word; the assertion says that elements of C are `f32` too.
    unsafe { amx::multiply(unit, c, beta, dims, a, b) }
}

/// A product by the `gemm` crate, on this thread.
///
/// # Safety
/// As for [`multiply`]; A and B cover the product.
unsafe fn by_gemm_crate<T: Real>(c: MatrixPtr<T>, beta: Beta<T>, dims: Dims, a: Matrix<T>, b: Matrix<T>) {
    let Dims { m, n, k } = dims;
    if let Beta::Bias(bias) = beta {
        for row in 0..m {
            // SAFETY: the caller's word: the row may be written, and nobody else uses it.
            unsafe { std::ptr::copy_nonoverlapping(bias.as_ptr(), c.data.add(row * c.row_stride), n) };
        }
    }
    let accumulate = !matches!(beta, Beta::Zero);
    let (nc, kc) = match a.column_stride {
        1 => (n, k),
        _ => (NC_UNPACKED_A, KC_UNPACKED_A),
    };
    let parts = n.div_ceil(nc);
    for step in (0..k).step_by(kc) {
        for index in 0..parts {
            let columns = part(n, NR, index, parts);
            let (a, b) = (a.starting_at(0, step), b.starting_at(step, columns.start));
            // SAFETY: the caller's word keeps every element that the strides reach inside its
            // slice; C being nobody else's it overlaps neither A nor B. What the product adds to is
            // there: the bias, or what the first steps have written.
            unsafe {
                gemm::gemm(
                    m,
                    columns.len(),
                    kc.min(k - step),
                    c.data.add(columns.start),
                    1,
                    c.row_stride as isize,
                    accumulate || step > 0,
                    a.data.as_ptr(),
                    a.column_stride as isize,
                    a.row_stride as isize,
                    b.data.as_ptr(),
                    b.column_stride as isize,
                    b.row_stride as isize,
                    T::one(),
                    T::one(),
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of threads changes the cuts, not the results.
    ///
    /// 600 and 1500 steps are more than the `gemm` crate sums at once.
    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        [Backend::GemmCrate, Backend::Tiles(TileUnit::any())]
            .into_iter()
            .for_each(gives_the_same_bits);
    }

    fn gives_the_same_bits(backend: Backend) {
        let numbers = |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
        for (m, n, k) in [
            (150, 40, 600),
            (300, 257, 1500),
            (33, 700, 600),
            (1000, 1, 1100),
            (64, 64, 600),
            (1, 900, 1200),
        ] {
            let (a, b) = (numbers(m * k), numbers(k * n));
            let row_major = (Matrix::new(&a, k, 1), Matrix::new(&b, n, 1));
            let column_major = (Matrix::new(&a, 1, m), Matrix::new(&b, 1, k));
            for (a, b) in [row_major, column_major] {
                let on = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| product_by(backend, None, Dims::new(m, n, k), a, b))
                };
                let expected = on(1);
                for threads in [2, 3, 4, 7, 12] {
                    assert!(
                        on(threads) == expected,
                        "{backend:?}: ({m}, {n}, {k}) on {threads} threads"
                    );
                }
            }
        }
    }

    #[test]
    fn strides_are_kept_and_nothing_between_rows_is_touched() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // (3, 2), read as its transpose (2, 3)
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // (3, 2)
        let mut c = [9.0f64; 5]; // (2, 2) in rows of 3
        let mut multiply = |beta, k, threads| {
            let (a, b) = (Matrix::new(&a, 1, 2), Matrix::new(&b, 2, 1));
            product_into(MatrixMut::new(&mut c, 3), beta, Dims::new(2, 2, k), a, b, threads);
            c
        };
        assert_eq!(multiply(Beta::Zero, 3, Threads::One), [7.0, 18.0, 9.0, 10.0, 22.0]);
        assert_eq!(multiply(Beta::One, 3, Threads::All), [14.0, 36.0, 9.0, 20.0, 44.0]);
        let bias = Beta::Bias(&[1.0, 2.0]);
        assert_eq!(multiply(bias, 3, Threads::One), [8.0, 20.0, 9.0, 11.0, 24.0]);
        assert_eq!(multiply(Beta::One, 0, Threads::One), [8.0, 20.0, 9.0, 11.0, 24.0]);
        assert_eq!(multiply(bias, 0, Threads::One), [1.0, 2.0, 9.0, 1.0, 2.0]);
        assert_eq!(multiply(Beta::Zero, 0, Threads::One), [0.0, 0.0, 9.0, 0.0, 0.0]);
    }
}
