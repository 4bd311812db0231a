//! Matrix products of strided slices through the `gemm` crate, a block of the result on each thread.
//!
//! The library rearranges the right operand, and the left one where its rows have gaps between the steps along k and the result
//! has many columns. So columns are cut rather than rows, and a left operand with gaps meets few columns at a time.

use std::ops::Range;

use rayon::prelude::*;

use super::{Real, par_new, threads, zeros};

/// Rows that one task fills with the bias.
const ROWS: usize = 256;
/// Rows and columns that the library's tiles divide: cuts between others would leave it more parts of tiles.
const ROW_UNIT: usize = 6;
const COLUMN_UNIT: usize = 16;

/// Columns of a result whose left operand, with gaps along k, is read as it lies; and steps along k at a time, which leave the
/// part of it that is read again for each few rows in the cache.
const COLUMNS_IN_PLACE: usize = 128;
const STEPS_IN_PLACE: usize = 256;

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
    let (down, across) = match parallel {
        true => cuts((m, n, k), threads()),
        false => (1, 1),
    };
    let out = Shared(out);
    let (all_columns, all_steps) = match a_column {
        1 => (n, k),
        _ => (COLUMNS_IN_PLACE, STEPS_IN_PLACE),
    };
    let multiply_block = |index: usize| {
        let rows = piece(m, ROW_UNIT, index / across, down);
        let columns = piece(n, COLUMN_UNIT, index % across, across);
        let parts = columns.len().div_ceil(all_columns);
        for step in (0..k).step_by(all_steps) {
            for part in 0..parts {
                let of_block = piece(columns.len(), COLUMN_UNIT, part, parts);
                let column = columns.start + of_block.start;
                // SAFETY: the assertions above keep every element that the strides reach inside its slice; `out` is the caller's word,
                // and being nobody else's it overlaps neither input. Blocks have no element of it in common, and what they add to
                // is there: after the first steps they have written it themselves.
                unsafe {
                    gemm::gemm(
                        rows.len(),
                        of_block.len(),
                        all_steps.min(k - step),
                        out.element(rows.start * out_row + column),
                        1,
                        out_row as isize,
                        accumulate || step > 0,
                        a[rows.start * a_row + step * a_column..].as_ptr(),
                        a_column as isize,
                        a_row as isize,
                        b[column * b_column + step * b_row..].as_ptr(),
                        b_column as isize,
                        b_row as isize,
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
    };
    match down * across {
        1 => multiply_block(0),
        blocks => (0..blocks).into_par_iter().with_max_len(1).for_each(multiply_block),
    }
}

/// Where the blocks of a result begin to be written from.
struct Shared<T>(*mut T);

// SAFETY: `multiply` writes through it, and each of its blocks other elements.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// The element belongs to what the pointer was made from.
    unsafe fn element(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's word.
        unsafe { self.0.add(offset) }
    }
}

/// Into how many pieces the rows and the columns of a result (m, n) of k steps are cut: one block a thread, where it is large enough,
/// the largest one as small as can be, and so that least is read and rearranged again.
///
/// A block is a product on one thread: the library's own threads wait for each other between steps along k. Its sums run in an order
/// that depends on k alone, but for results of one row or column, which are not cut, and those of at most 64 rows and columns, which
/// no block of a cut one is.
fn cuts((m, n, k): (usize, usize, usize), threads: usize) -> (usize, usize) {
    /// Fewest multiplications of a product that several threads share.
    const WORK: usize = 1 << 20;
    /// Multiplications that take as long as it does to write a number.
    const WRITTEN: usize = 16;
    /// Fewest rows, or columns, of a piece.
    const LEAST: usize = 128;
    if m == 1 || n == 1 || m * n * k.max(WRITTEN) < WORK {
        return (1, 1);
    }
    let pieces = |count: usize, size: usize| count.min(size / LEAST).max(1);
    /// Rearranging a number of the right operand against reading one of the left: pieces of 1024 rows and of 128 columns of results
    /// (2048, 256) take the same time.
    const REARRANGED: usize = 8;
    let largest = |(down, across): (usize, usize)| m.div_ceil(down) * n.div_ceil(across);
    (1..=threads)
        .map(|down| (pieces(down, m), pieces(threads / down, n)))
        .min_by_key(|cuts| (largest(*cuts), REARRANGED * cuts.0 * n + cuts.1 * m))
        .unwrap_or((1, 1))
}

/// The rows, or columns, of piece `index` of `count` of `size`, in whole units but for the last.
fn piece(size: usize, unit: usize, index: usize, count: usize) -> Range<usize> {
    let units = size.div_ceil(unit);
    let start = |index: usize| (index * units / count * unit).min(size);
    start(index)..start(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads change where a result is cut, not what it is; 600 and 1500 steps are more than the library sums at once.
    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
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
            for (a, b) in [((&a[..], k, 1), (&b[..], n, 1)), ((&a, 1, m), (&b, 1, k))] {
                let on = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| new_product(None, (m, n, k), a, b))
                };
                let expected = on(1);
                for threads in [2, 3, 4, 7, 12] {
                    assert!(on(threads) == expected, "({m}, {n}, {k}) on {threads} threads");
                }
            }
        }
    }

    #[test]
    fn pieces_cover_everything_once() {
        for (size, unit, count) in [(4096, 6, 2), (257, 16, 2), (1000, 16, 7), (5, 6, 1), (1, 16, 1)] {
            let mut end = 0;
            for index in 0..count {
                let piece = piece(size, unit, index, count);
                assert_eq!(piece.start, end);
                assert!(!piece.is_empty());
                end = piece.end;
            }
            assert_eq!(end, size);
        }
        assert_eq!(cuts((4096, 256, 1024), 2), (2, 1));
        assert_eq!(cuts((2048, 512, 256), 2), (1, 2));
        assert_eq!(cuts((256, 1024, 4096), 2), (1, 2));
        assert_eq!(cuts((1024, 1024, 1024), 16), (2, 8));
        assert_eq!(cuts((200, 200, 4096), 16), (1, 1));
        assert_eq!(cuts((8, 8, 8), 16), (1, 1));
    }

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
