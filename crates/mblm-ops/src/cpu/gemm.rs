//! Matrix products of strided slices through the `gemm` crate.

use super::{Real, par_new, threads, zeros};

/// Rows that one task fills with the bias.
const ROWS: usize = 256;

/// A matrix: data, elements from one row to the next, elements from one column to the next.
pub(crate) type Matrix<'a, T> = (&'a [T], usize, usize);

/// The row `bias`, or nothing, + a (m, k) · b (k, n), row after row, on every thread.
pub(crate) fn new_product<T: Real>(
    bias: Option<&[T]>,
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
) -> Vec<T> {
    if let Some(bias) = bias {
        assert!(bias.len() == n);
        // SAFETY: chunks are whole rows, as long as the bias is.
        let mut out = unsafe {
            par_new(m * n, ROWS * n, |_, rows| {
                for row in rows.chunks_exact_mut(n) {
                    for (to, bias) in row.iter_mut().zip(bias) {
                        to.write(*bias);
                    }
                }
            })
        };
        product((&mut out, n), true, (m, n, k), a, b, true);
        return out;
    }
    if k == 0 {
        return zeros(m * n);
    }
    let mut out = Vec::with_capacity(m * n);
    let new = &mut out.spare_capacity_mut()[..m * n];
    // SAFETY: the rows are n elements long and n apart.
    unsafe { multiply((new.as_mut_ptr().cast(), n), false, (m, n, k), a, b, true) };
    // SAFETY: a product that adds to nothing has written them all.
    unsafe { out.set_len(m * n) };
    out
}

/// out (m, n) = [out +] a (m, k) · b (k, n).
///
/// `out` is (data, row stride) with columns one apart; `a` and `b` are (data, row stride, column stride). `parallel` lets
/// the product use every thread; a task of a parallel loop says `false`.
pub(crate) fn product<T: Real>(
    (out, out_row): (&mut [T], usize),
    accumulate: bool,
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out_row >= n && out.len() >= (m - 1) * out_row + n);
    if k == 0 {
        if !accumulate {
            out.chunks_mut(out_row).take(m).for_each(|row| row[..n].fill(T::zero()));
        }
        return;
    }
    // SAFETY: the assertion above keeps every element that is written inside `out`, which is borrowed mutably.
    unsafe { multiply((out.as_mut_ptr(), out_row), accumulate, (m, n, k), a, b, parallel) }
}

/// [`product`] of at least one step along k.
///
/// # Safety
/// Every element (i, j) of `out`, at i times its row stride + j, may be written, and nobody else uses it; with `accumulate` it
/// holds a number.
unsafe fn multiply<T: Real>(
    (out, out_row): (*mut T, usize),
    accumulate: bool,
    (m, n, k): (usize, usize, usize),
    (a, a_row, a_column): Matrix<T>,
    (b, b_row, b_column): Matrix<T>,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.len() > (m - 1) * a_row + (k - 1) * a_column);
    assert!(b.len() > (k - 1) * b_row + (n - 1) * b_column);
    let parallelism = match threads() {
        threads if parallel && threads > 1 => gemm::Parallelism::Rayon(threads),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: the assertions above keep every element that the strides reach inside its slice; `out` is the caller's word, and
    // being nobody else's it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_row as isize,
            accumulate,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_kept_and_nothing_between_rows_is_touched() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // (3, 2), read as its transpose (2, 3)
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // (3, 2)
        let mut out = [9.0f64; 5]; // (2, 2) in rows of 3
        product((&mut out, 3), false, (2, 2, 3), (&a, 1, 2), (&b, 2, 1), false);
        assert_eq!(out, [7.0, 18.0, 9.0, 10.0, 22.0]);
        product((&mut out, 3), true, (2, 2, 3), (&a, 1, 2), (&b, 2, 1), true);
        assert_eq!(out, [14.0, 36.0, 9.0, 20.0, 44.0]);
        product((&mut out, 3), false, (2, 2, 0), (&a, 1, 2), (&b, 2, 1), false);
        assert_eq!(out, [0.0, 0.0, 9.0, 0.0, 0.0]);
    }
}
