//! Attention of one new row after a long past: ranges of keys, all heads of a key at once.
//!
//! The rows of one head lie far apart, and memory is fast only for contiguous reads. So a task
//! takes every head of a range of keys of a fixed size. It computes for each head h
//!
//! ```text
//! s_j = q_h·k_j    m = max s_j    l = Σ e^(s_j - m)    o = Σ e^(s_j - m) v_j
//! ```
//!
//! The results of all ranges are combined by their m (Milakov and Gimelshein, arXiv 1805.02867).

use multiversion::multiversion;

use super::problem::Problem;
use super::rows::{Rows, maximum};
use crate::cpu::{Real, axpy, dots_of_pairs, par_map, prefetch, sum};

/// Keys per task.
const RANGE: usize = 128;

/// Keys ahead at which a row is prefetched.
const AHEAD: usize = 4;

/// The results of a range of keys.
struct Partial<T> {
    /// e^(s_j - m), (h, keys of the range).
    weights: Vec<T>,
    /// m and l of each head.
    statistics: Vec<(T, T)>,
    /// o of all heads, (h·d_h).
    out: Vec<T>,
}

/// Whether this kernel computes the call: one row, more keys than a range, no hiding, no dropout.
pub(super) fn serves<T: Real>(p: &Problem<T>) -> bool {
    p.sizes.queries == 1 && p.sizes.keys() > RANGE && p.a.dropout.is_none() && !p.hides()
}

/// The output (n, h·d_h) and the weights (n, h, keys), from the new rows `present` (n, 2·h·d_h).
pub(super) fn forward<T: Real>(p: &Problem<T>, present: &[T]) -> (Vec<T>, Vec<T>) {
    let (n, heads, dh) = (p.sizes.sequences, p.sizes.heads, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    let mut queries = vec![T::zero(); n * width];
    for (sequence, row) in queries.chunks_exact_mut(width).enumerate() {
        for (head, query) in row.chunks_exact_mut(dh).enumerate() {
            p.rotate(query, p.q.run(sequence, head * dh).row(0, dh), 0, p.scale);
        }
    }
    let ranges = keys.div_ceil(RANGE);
    let partials = par_map((0..n * ranges).collect(), true, |_, task| {
        let (sequence, first) = (task / ranges, task % ranges * RANGE);
        let query = &queries[sequence * width..][..width];
        range(p, sequence, query, present, (first, RANGE.min(keys - first)))
    });
    let mut out = vec![T::zero(); n * width];
    let mut weights = vec![T::zero(); n * heads * keys];
    let rows = out.chunks_exact_mut(width).zip(weights.chunks_exact_mut(heads * keys));
    for ((out, weights), partials) in rows.zip(partials.chunks_exact(ranges)) {
        for head in 0..heads {
            let greatest = partials.iter().map(|partial| partial.statistics[head].0);
            let greatest = greatest.fold(T::neg_infinity(), |a, b| if b > a { b } else { a });
            let factors: Vec<T> = partials
                .iter()
                .map(|partial| (partial.statistics[head].0 - greatest).fast_exp())
                .collect();
            let mut total = T::zero();
            for (partial, factor) in partials.iter().zip(&factors) {
                total += partial.statistics[head].1 * *factor;
            }
            let out = &mut out[head * dh..][..dh];
            let weights = weights[head * keys..][..keys].chunks_mut(RANGE);
            for ((partial, factor), weights) in partials.iter().zip(&factors).zip(weights) {
                let factor = *factor / total;
                axpy(out, factor, &partial.out[head * dh..][..dh]);
                axpy(
                    weights,
                    factor,
                    &partial.weights[head * weights.len()..][..weights.len()],
                );
            }
        }
    }
    (out, weights)
}

/// Computes `count` keys of a sequence from key `first` on; the new row is the last key.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn range<T: Real>(
    p: &Problem<T>,
    sequence: usize,
    query: &[T],
    present: &[T],
    (first, count): (usize, usize),
) -> Partial<T> {
    let (heads, dh, width, past) = (p.sizes.heads, p.sizes.head_dim, p.sizes.width(), p.sizes.past);
    let (old, _) = p.past(sequence, 0);
    let new = Rows::contiguous(present, 1, 2 * width).run(sequence, 0);
    let row = |key: usize| match key < past {
        true => old.row(key, 2 * width),
        false => new.row(key - past, 2 * width),
    };
    let mut by_key = vec![T::zero(); count * heads];
    for (index, scores) in by_key.chunks_exact_mut(heads).enumerate() {
        if index + AHEAD < count {
            prefetch(row(first + index + AHEAD));
        }
        dots_of_pairs(scores, query, &row(first + index)[..width], dh);
    }
    let mut weights = vec![T::zero(); heads * count];
    let mut statistics = Vec::with_capacity(heads);
    for (head, weights) in weights.chunks_exact_mut(count).enumerate() {
        for (weight, scores) in weights.iter_mut().zip(by_key.chunks_exact(heads)) {
            *weight = scores[head];
        }
        let greatest = maximum(weights);
        for weight in weights.iter_mut() {
            *weight = (*weight - greatest).fast_exp();
        }
        statistics.push((greatest, sum(weights)));
    }
    let mut out = vec![T::zero(); width];
    for index in 0..count {
        let values = &row(first + index)[width..];
        for (head, out) in out.chunks_exact_mut(dh).enumerate() {
            axpy(out, weights[head * count + index], &values[head * dh..][..dh]);
        }
    }
    Partial {
        weights,
        statistics,
        out,
    }
}
