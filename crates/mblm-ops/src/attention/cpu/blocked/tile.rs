//! Parts of both passes over long sequences: heads, tiles of scores and rotated queries.

use std::ops::Range;

use multiversion::multiversion;

use crate::attention::cpu::problem::Problem;
use crate::attention::cpu::rows::Run;
use crate::cpu::{Beta, Dims, Matrix, MatrixMut, Real, Threads, product_into};

/// Rows per task of the loops over rows.
pub(super) const ROWS: usize = 64;

/// A row-major matrix with `columns` columns.
pub(super) fn tile_of<T>(data: &[T], columns: usize) -> Matrix<'_, T> {
    Matrix::new(data, columns, 1)
}

/// The rows of a head as a matrix.
pub(super) fn rows_of<T>(run: Run<'_, T>) -> Matrix<'_, T> {
    Matrix::new(run.data, run.stride, 1)
}

/// One head of one sequence.
pub(super) struct Head<'a, T> {
    pub(super) sequence: usize,
    /// The head's index among the heads of all sequences.
    pub(super) index: usize,
    pub(super) past: (Run<'a, T>, Run<'a, T>),
    pub(super) new: (Run<'a, T>, Run<'a, T>),
    /// The number of past rows.
    pub(super) split: usize,
}

impl<'a, T: Real> Head<'a, T> {
    /// Head `index` among the heads of all sequences; its `keys` are rotated.
    pub(super) fn new(p: &Problem<'a, T>, index: usize, keys: Run<'a, T>, values: Run<'a, T>) -> Self {
        let (sequence, head) = (index / p.sizes.heads, index % p.sizes.heads);
        Self {
            sequence,
            index,
            past: p.past(sequence, head),
            new: (keys, values),
            split: p.sizes.past,
        }
    }

    /// Keys and values from key `key` on, up to the end of the past or of the new rows.
    pub(super) fn rows(&self, key: usize) -> (Run<'a, T>, Run<'a, T>) {
        match key.checked_sub(self.split) {
            Some(row) => (self.new.0.from(row), self.new.1.from(row)),
            None => (self.past.0.from(key), self.past.1.from(key)),
        }
    }
}

/// Cuts a range of keys into tiles of at most `len` keys, each entirely past or entirely new.
pub(super) fn key_tiles(range: Range<usize>, len: usize, past: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = range.start;
    std::iter::from_fn(move || {
        let mut to = (from + len).min(range.end);
        if from < past {
            to = to.min(past);
        }
        let tile = from..to;
        from = to;
        (!tile.is_empty()).then_some(tile)
    })
}

/// A tile of scores: its queries, its keys, and which keys are hidden.
pub(super) struct Tile<'a> {
    /// The first query of the tile.
    pub(super) query: usize,
    pub(super) keys: Range<usize>,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// One number per key, 0 hides it; `None` for past keys.
    pub(super) visible: Option<&'a [u8]>,
}

impl<'a> Tile<'a> {
    pub(super) fn new<T: Real>(
        p: &Problem<'a, T>,
        head: &Head<T>,
        query: usize,
        keys: Range<usize>,
        stride: usize,
    ) -> Self {
        let visible = match keys.start.checked_sub(p.sizes.past) {
            Some(row) => p.visible(head.sequence).map(|visible| &visible[row..][..keys.len()]),
            None => None,
        };
        Self {
            query,
            keys,
            stride,
            visible,
        }
    }

    /// The number of the tile's keys that row `row` sees.
    #[inline(always)]
    pub(super) fn limit<T: Real>(&self, p: &Problem<T>, row: usize) -> usize {
        p.limit(self.query + row)
            .saturating_sub(self.keys.start)
            .min(self.keys.len())
    }

    /// Gives hidden keys the lowest finite score.
    #[inline(always)]
    pub(super) fn hide<T: Real>(&self, scores: &mut [T]) {
        if let Some(visible) = self.visible {
            for (score, visible) in scores.iter_mut().zip(visible) {
                *score = if *visible == 0 { T::min_value() } else { *score };
            }
        }
    }

    /// Applies dropout to `rows` rows of weights, or of the gradients of the weights.
    pub(super) fn drop<T: Real>(&self, p: &Problem<T>, head: &Head<T>, rows: usize, weights: &mut [T]) {
        if p.a.dropout.is_some() {
            for (row, weights) in weights.chunks_mut(self.stride).take(rows).enumerate() {
                let weights = &mut weights[..self.keys.len()];
                p.drop(head.index, self.query + row, self.keys.start, weights);
            }
        }
    }
}

/// C = β C + A B on this thread, where the rows of C are `stride` apart.
pub(super) fn tile_product<T: Real>(c: &mut [T], stride: usize, beta: Beta<T>, dims: Dims, a: Matrix<T>, b: Matrix<T>) {
    product_into(MatrixMut::new(c, stride), beta, dims, a, b, Threads::One);
}

/// Writes the rotated and scaled queries of a head from row `first` on to `out` (rows, d_h).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
pub(super) fn rotate_queries<T: Real>(p: &Problem<T>, head: usize, first: usize, out: &mut [T]) {
    let dh = p.sizes.head_dim;
    let q = p.q.run(head / p.sizes.heads, head % p.sizes.heads * dh);
    for (row, out) in out.chunks_exact_mut(dh).enumerate() {
        p.rotate(out, q.row(first + row, dh), first + row, p.scale);
    }
}
