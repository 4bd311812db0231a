//! Matrix products of strided slices, a block of the result on each thread, through the `gemm` crate; of rounded numbers in the
//! processor's tiles ([`amx`]).
//!
//! The library rearranges the right operand, and the left one where its rows have gaps between the steps along k and the result
//! has many columns. So columns are cut rather than rows, and a left operand with gaps meets few columns at a time.

use std::ops::Range;

use candle_core::DType;
use rayon::prelude::*;

use super::amx::{self, Unit};
use super::{Real, threads, zeros};

/// Columns that the library's tiles divide.
const COLUMN_UNIT: usize = 16;

/// Columns of a result whose left operand, with gaps along k, is read as it lies; and steps along k at a time, which leave the
/// part of it that is read again for each few rows in the cache.
const COLUMNS_IN_PLACE: usize = 128;
const STEPS_IN_PLACE: usize = 256;

/// A matrix: data, elements from one row to the next, elements from one column to the next.
pub(crate) type Matrix<'a, T> = (&'a [T], usize, usize);

/// How a block is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By the `gemm` crate.
    Library,
    /// In tiles, rounded to bfloat16: numbers of `f32`.
    Tiles(Unit),
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a, T> {
    /// Nothing; what was there need not be initialised.
    Zero,
    /// The same row everywhere; what was there need not be initialised.
    Row(&'a [T]),
    /// What is there.
    Held,
}

/// The row `bias`, or nothing, + a (m, k) · b (k, n), row after row, on every thread.
pub(crate) fn new_product<T: Real>(
    bias: Option<&[T]>,
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
) -> Vec<T> {
    new_product_by(By::Library, bias, sizes, a, b)
}

/// [`new_product`], multiplied as asked.
pub(super) fn new_product_by<T: Real>(
    by: By,
    bias: Option<&[T]>,
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
) -> Vec<T> {
    assert!(bias.is_none_or(|bias| bias.len() == n));
    if k == 0 {
        return bias.map_or_else(|| zeros(m * n), |bias| bias.repeat(m));
    }
    let mut out = Vec::with_capacity(m * n);
    let new = &mut out.spare_capacity_mut()[..m * n];
    let start = bias.map_or(Start::Zero, Start::Row);
    // SAFETY: the rows are n elements long and n apart.
    unsafe { multiply(by, (new.as_mut_ptr().cast(), n), start, (m, n, k), a, b, true) };
    // SAFETY: a product that adds to nothing, or to a row, has written them all.
    unsafe { out.set_len(m * n) };
    out
}

/// out (m, n) = [out +] a (m, k) · b (k, n).
///
/// `out` is (data, row stride) with columns one apart; `a` and `b` are (data, row stride, column stride). `parallel` lets
/// the product use every thread; a task of a parallel loop says `false`.
pub(crate) fn product<T: Real>(
    out: (&mut [T], usize),
    accumulate: bool,
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    parallel: bool,
) {
    product_by(By::Library, out, accumulate, sizes, a, b, parallel);
}

/// [`product`], multiplied as asked.
pub(super) fn product_by<T: Real>(
    by: By,
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
    let start = if accumulate { Start::Held } else { Start::Zero };
    // SAFETY: the assertion above keeps every element that is written inside `out`, which is borrowed mutably.
    unsafe { multiply(by, (out.as_mut_ptr(), out_row), start, (m, n, k), a, b, parallel) }
}

/// [`product`] of at least one step along k.
///
/// # Safety
/// Every element (i, j) of `out`, at i times its row stride + j, may be written, and nobody else uses it; to be [`Start::Held`]
/// it holds a number.
unsafe fn multiply<T: Real>(
    by: By,
    (out, out_row): (*mut T, usize),
    start: Start<T>,
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.0.len() > (m - 1) * a.1 + (k - 1) * a.2);
    assert!(b.0.len() > (k - 1) * b.1 + (n - 1) * b.2);
    let cut = match by {
        By::Library => Cut::LIBRARY,
        By::Tiles(_) => Cut::TILES,
    };
    let (down, across) = match parallel {
        true => cut.pieces((m, n, k), threads()),
        false => (1, 1),
    };
    let out = Shared(out);
    let multiply_block = |index: usize| {
        let rows = piece(m, cut.row_unit, index / across, down);
        let columns = piece(n, cut.column_unit, index % across, across);
        let start = match start {
            Start::Row(row) => Start::Row(&row[columns.clone()]),
            start => start,
        };
        let sizes = (rows.len(), columns.len(), k);
        let (a, b) = (
            (&a.0[rows.start * a.1..], a.1, a.2),
            (&b.0[columns.start * b.2..], b.1, b.2),
        );
        // SAFETY: the caller's word; blocks have no element in common.
        unsafe {
            let out = (out.element(rows.start * out_row + columns.start), out_row);
            match by {
                By::Library => by_library(out, start, sizes, a, b),
                By::Tiles(unit) => in_tiles(unit, out, start, sizes, a, b),
            }
        }
    };
    match down * across {
        1 => multiply_block(0),
        blocks => (0..blocks).into_par_iter().with_max_len(1).for_each(multiply_block),
    }
}

/// [`amx::multiply`] of numbers that are of `f32`.
///
/// # Safety
/// That of [`multiply`].
unsafe fn in_tiles<T: Real>(
    unit: Unit,
    (out, out_row): (*mut T, usize),
    start: Start<T>,
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
) {
    fn single<T: Real>(numbers: &[T]) -> &[f32] {
        assert_eq!(T::DTYPE, DType::F32);
        // SAFETY: of the types of `Real` one alone is `f32`'s, `f32`.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
    }
    let start = match start {
        Start::Zero => Start::Zero,
        Start::Held => Start::Held,
        Start::Row(row) => Start::Row(single(row)),
    };
    let (a, b) = ((single(a.0), a.1, a.2), (single(b.0), b.1, b.2));
    // SAFETY: the caller's word; the assertion says that elements of `out` are `f32` too.
    unsafe { amx::multiply(unit, (out.cast(), out_row), start, sizes, a, b) }
}

/// A product by the `gemm` crate, on this thread.
///
/// # Safety
/// That of [`multiply`]; the operands reach as far as the sizes say.
unsafe fn by_library<T: Real>(
    (out, out_row): (*mut T, usize),
    start: Start<T>,
    (m, n, k): (usize, usize, usize),
    (a, a_row, a_column): Matrix<T>,
    (b, b_row, b_column): Matrix<T>,
) {
    if let Start::Row(bias) = start {
        for row in 0..m {
            // SAFETY: the caller's word: the row may be written, and nobody else uses it.
            unsafe { std::ptr::copy_nonoverlapping(bias.as_ptr(), out.add(row * out_row), n) };
        }
    }
    let accumulate = !matches!(start, Start::Zero);
    let (all_columns, all_steps) = match a_column {
        1 => (n, k),
        _ => (COLUMNS_IN_PLACE, STEPS_IN_PLACE),
    };
    let parts = n.div_ceil(all_columns);
    for step in (0..k).step_by(all_steps) {
        for part in 0..parts {
            let columns = piece(n, COLUMN_UNIT, part, parts);
            // SAFETY: the caller's word keeps every element that the strides reach inside its slice; `out` being nobody else's it overlaps
            // neither input. What the product adds to is there: the bias, or what the first steps have written.
            unsafe {
                gemm::gemm(
                    m,
                    columns.len(),
                    all_steps.min(k - step),
                    out.add(columns.start),
                    1,
                    out_row as isize,
                    accumulate || step > 0,
                    a[step * a_column..].as_ptr(),
                    a_column as isize,
                    a_row as isize,
                    b[columns.start * b_column + step * b_row..].as_ptr(),
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

/// How a result is cut into blocks, one a thread.
///
/// A block is a product on one thread: the library's own threads wait for each other between steps along k. Its sums run in an order
/// that depends on k alone, but for the library's results of one row or column, which are not cut, and those of at most 64 rows and
/// columns, which no block of a cut one is.
struct Cut {
    /// Rows and columns that tiles divide: cuts between others would leave more parts of tiles.
    row_unit: usize,
    column_unit: usize,
    /// What rearranging a number of the right operand costs against one of the left, or against reading it.
    rearranged: usize,
}

impl Cut {
    /// The library rearranges the right operand: pieces of 1024 rows and of 128 columns of results (2048, 256) take the same time.
    const LIBRARY: Self = Self {
        row_unit: 6,
        column_unit: COLUMN_UNIT,
        rearranged: 8,
    };
    /// Both operands are rearranged.
    const TILES: Self = Self {
        row_unit: amx::BLOCK,
        column_unit: amx::BLOCK,
        rearranged: 1,
    };

    /// Into how many pieces the rows and the columns of a result (m, n) of k steps are cut: one block a thread, where it is large enough,
    /// the largest one as small as can be, and so that least is read and rearranged again.
    fn pieces(&self, (m, n, k): (usize, usize, usize), threads: usize) -> (usize, usize) {
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
        let largest = |(down, across): (usize, usize)| m.div_ceil(down) * n.div_ceil(across);
        (1..=threads)
            .map(|down| (pieces(down, m), pieces(threads / down, n)))
            .min_by_key(|cuts| (largest(*cuts), self.rearranged * cuts.0 * n + cuts.1 * m))
            .unwrap_or((1, 1))
    }
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
        [By::Library, By::Tiles(Unit::any())]
            .into_iter()
            .for_each(gives_the_same_bits);
    }

    fn gives_the_same_bits(by: By) {
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
                    pool.install(|| new_product_by(by, None, (m, n, k), a, b))
                };
                let expected = on(1);
                for threads in [2, 3, 4, 7, 12] {
                    assert!(on(threads) == expected, "{by:?}: ({m}, {n}, {k}) on {threads} threads");
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
        assert_eq!(Cut::LIBRARY.pieces((4096, 256, 1024), 2), (2, 1));
        assert_eq!(Cut::LIBRARY.pieces((2048, 512, 256), 2), (1, 2));
        assert_eq!(Cut::LIBRARY.pieces((256, 1024, 4096), 2), (1, 2));
        assert_eq!(Cut::LIBRARY.pieces((1024, 1024, 1024), 16), (2, 8));
        assert_eq!(Cut::LIBRARY.pieces((200, 200, 4096), 16), (1, 1));
        assert_eq!(Cut::LIBRARY.pieces((8, 8, 8), 16), (1, 1));
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
