//! The backward pass over long sequences, one strip of keys per task.

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::tile::{Head, ROWS, Tile, key_tiles, rotate_queries, rows_of, tile_of, tile_product};
use crate::attention::cpu::Tiles;
use crate::attention::cpu::problem::Problem;
use crate::attention::cpu::rows::{Rows, Run};
use crate::cpu::{Beta, Dims, Real, add_assign, dot, par_chunks, zeros};

/// The inputs of all strips of the backward pass, by head.
struct Prepared<T> {
    /// Rotated and scaled queries (n, h, t, d_h).
    queries: Vec<T>,
    /// Rotated keys (n, h, t, d_h).
    keys: Vec<T>,
    /// dout · out (n, h, t).
    deltas: Vec<T>,
}

/// The gradients from one strip of keys.
struct StripGradients<T> {
    /// The keys of the strip.
    keys: Range<usize>,
    /// The first query that sees one of the keys.
    first: usize,
    /// Gradient of the rotated and scaled queries from `first` on (t - first, d_h).
    d_q: Vec<T>,
    /// Gradient of the strip's rotated keys (keys, d_h).
    d_k: Vec<T>,
    /// Gradient of the strip's values (keys, d_h).
    d_v: Vec<T>,
}

/// The gradients of q, kv and the past, from the output and statistics of [`forward`].
pub(in crate::attention::cpu) fn backward<T: Real>(
    p: &Problem<T>,
    tiles: Tiles,
    (out, statistics): (&[T], &[T]),
    d_out: &[T],
    d_present: Option<&[T]>,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (n, t, heads, dh) = (p.sizes.sequences, p.sizes.queries, p.sizes.heads, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    let prepared = prepare(p, out, d_out);
    let d_outs = Rows::contiguous(d_out, t, width);
    let len = keys.div_ceil(tiles.strips.max(1));
    let strips = keys.div_ceil(len);
    let gradients: Vec<StripGradients<T>> = (0..n * heads * strips)
        .into_par_iter()
        .map(|task| {
            let (index, strip) = (task / strips, task % strips);
            let (sequence, channel) = (index / heads, index % heads * dh);
            let values = p.kv.run(sequence, width + channel);
            let own = Run {
                data: &prepared.keys[index * t * dh..][..t * dh],
                stride: dh,
            };
            let head = Head::new(p, index, own, values);
            let range = strip * len..((strip + 1) * len).min(keys);
            let queries = &prepared.queries[index * t * dh..][..t * dh];
            let statistics = (
                &statistics[index * t * 2..][..t * 2],
                &prepared.deltas[index * t..][..t],
            );
            backward_strip(
                p,
                tiles,
                &head,
                range,
                queries,
                statistics,
                d_outs.run(sequence, channel),
            )
        })
        .collect();
    gather(p, &gradients, strips, d_present)
}

fn prepare<T: Real>(p: &Problem<T>, out: &[T], d_out: &[T]) -> Prepared<T> {
    let (n, t, heads, dh) = (p.sizes.sequences, p.sizes.queries, p.sizes.heads, p.sizes.head_dim);
    let mut prepared = Prepared {
        queries: zeros(n * heads * t * dh),
        keys: zeros(n * heads * t * dh),
        deltas: vec![T::zero(); n * heads * t],
    };
    prepared
        .queries
        .par_chunks_mut(t * dh)
        .zip(prepared.keys.par_chunks_mut(t * dh))
        .zip(prepared.deltas.par_chunks_mut(t))
        .enumerate()
        .for_each(|(head, ((queries, keys), deltas))| {
            rotate_queries(p, head, 0, queries);
            prepare_head(p, head, (out, d_out), keys, deltas);
        });
    prepared
}

/// Computes a head's rotated keys, and dout · out of its queries.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn prepare_head<T: Real>(p: &Problem<T>, head: usize, (out, d_out): (&[T], &[T]), keys: &mut [T], deltas: &mut [T]) {
    let (t, dh, width) = (p.sizes.queries, p.sizes.head_dim, p.sizes.width());
    let (sequence, channel) = (head / p.sizes.heads, head % p.sizes.heads * dh);
    let k = p.kv.run(sequence, channel);
    let out = Rows::contiguous(out, t, width).run(sequence, channel);
    let d_out = Rows::contiguous(d_out, t, width).run(sequence, channel);
    for (row, (key, delta)) in keys.chunks_exact_mut(dh).zip(deltas).enumerate() {
        p.rotate(key, k.row(row, dh), row, T::one());
        *delta = dot(out.row(row, dh), d_out.row(row, dh));
    }
}

/// The gradients through the keys `range` of a head; `queries` are rotated and scaled.
fn backward_strip<T: Real>(
    p: &Problem<T>,
    tiles: Tiles,
    head: &Head<T>,
    range: Range<usize>,
    queries: &[T],
    (statistics, deltas): (&[T], &[T]),
    d_out: Run<T>,
) -> StripGradients<T> {
    let (t, dh) = (p.sizes.queries, p.sizes.head_dim);
    let first_of = |key: usize| {
        if p.a.causal {
            key.saturating_sub(p.sizes.past)
        } else {
            0
        }
    };
    let first = first_of(range.start);
    let mut gradients = StripGradients {
        keys: range.clone(),
        first,
        d_q: vec![T::zero(); (t - first) * dh],
        d_k: vec![T::zero(); range.len() * dh],
        d_v: vec![T::zero(); range.len() * dh],
    };
    let mut scores = vec![T::zero(); tiles.queries * tiles.keys];
    let mut d_scores = vec![T::zero(); tiles.queries * tiles.keys];
    let mut columns = vec![T::zero(); 2 * dh * tiles.keys];
    let (k_t, v_t) = columns.split_at_mut(dh * tiles.keys);
    for keys in key_tiles(range.clone(), tiles.keys, p.sizes.past) {
        let (k, v) = head.rows(keys.start);
        let count = keys.len();
        transpose(k_t, k, count, dh);
        transpose(v_t, v, count, dh);
        let (k, k_t, v_t) = (rows_of(k), tile_of(k_t, count), tile_of(v_t, count));
        let d_k = &mut gradients.d_k[(keys.start - range.start) * dh..][..count * dh];
        let d_v = &mut gradients.d_v[(keys.start - range.start) * dh..][..count * dh];
        for query in (first_of(keys.start)..t).step_by(tiles.queries) {
            let rows = tiles.queries.min(t - query);
            let q = tile_of(&queries[query * dh..][..rows * dh], dh);
            let d_out = rows_of(d_out.from(query));
            let tile = Tile::new(p, head, query, keys.clone(), tiles.keys);
            let stride = tile.stride;
            tile_product(&mut scores, stride, Beta::Zero, Dims::new(rows, count, dh), q, k_t);
            tile_product(
                &mut d_scores,
                stride,
                Beta::Zero,
                Dims::new(rows, count, dh),
                d_out,
                v_t,
            );
            tile.drop(p, head, rows, &mut d_scores);
            let kept = (&statistics[query * 2..][..rows * 2], &deltas[query..][..rows]);
            gradient_tile(p, &tile, &mut scores, &mut d_scores, kept);
            tile.drop(p, head, rows, &mut scores);
            let (w, dw) = (tile_of(&scores, stride), tile_of(&d_scores, stride));
            tile_product(d_v, dh, Beta::One, Dims::new(count, dh, rows), w.transposed(), d_out);
            tile_product(d_k, dh, Beta::One, Dims::new(count, dh, rows), dw.transposed(), q);
            let d_q = &mut gradients.d_q[(query - first) * dh..][..rows * dh];
            tile_product(d_q, dh, Beta::One, Dims::new(rows, dh, count), dw, k);
        }
    }
    gradients
}

/// Transposes the first `count` rows of a head into `to` (d_h, count).
///
/// Products read this layout without packing it themselves.
fn transpose<T: Real>(to: &mut [T], rows: Run<T>, count: usize, dh: usize) {
    for row in 0..count {
        for (to, value) in to[row..].iter_mut().step_by(count).zip(rows.row(row, dh)) {
            *to = *value;
        }
    }
}

/// Turns scores into weights, and weight gradients into score gradients.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn gradient_tile<T: Real>(
    p: &Problem<T>,
    tile: &Tile,
    scores: &mut [T],
    d_scores: &mut [T],
    (statistics, deltas): (&[T], &[T]),
) {
    let rows = scores
        .chunks_exact_mut(tile.stride)
        .zip(d_scores.chunks_exact_mut(tile.stride))
        .zip(statistics.chunks_exact(2).zip(deltas));
    for (row, ((scores, d_scores), (statistics, delta))) in rows.enumerate() {
        let limit = tile.limit(p, row);
        let (scores, unseen) = scores[..tile.keys.len()].split_at_mut(limit);
        unseen.fill(T::zero());
        let (d_scores, unseen) = d_scores[..tile.keys.len()].split_at_mut(limit);
        unseen.fill(T::zero());
        tile.hide(scores);
        let (maximum, inverse) = (statistics[0], statistics[1]);
        for (score, d_score) in scores.iter_mut().zip(d_scores.iter_mut()) {
            *score = (*score - maximum).fast_exp() * inverse;
            *d_score = *score * (*d_score - *delta);
        }
        if let Some(visible) = tile.visible {
            for (d_score, visible) in d_scores.iter_mut().zip(visible) {
                *d_score = if *visible == 0 { T::zero() } else { *d_score };
            }
        }
    }
}

/// Adds the strips in order and rotates their gradients back.
fn gather<T: Real>(
    p: &Problem<T>,
    gradients: &[StripGradients<T>],
    strips: usize,
    d_present: Option<&[T]>,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (n, t, past, heads, dh) = (
        p.sizes.sequences,
        p.sizes.queries,
        p.sizes.past,
        p.sizes.heads,
        p.sizes.head_dim,
    );
    let width = p.sizes.width();
    let strips_of = |sequence: usize, head: usize| &gradients[(sequence * heads + head) * strips..][..strips];
    let mut d_q = zeros(n * t * width);
    par_chunks(&mut d_q, ROWS * width, |chunk, d_q| {
        let mut total = vec![T::zero(); dh];
        for (index, d_q) in d_q.chunks_exact_mut(width).enumerate() {
            let (sequence, row) = ((chunk * ROWS + index) / t, (chunk * ROWS + index) % t);
            for (head, d_q) in d_q.chunks_exact_mut(dh).enumerate() {
                total.fill(T::zero());
                for strip in strips_of(sequence, head).iter().filter(|strip| strip.first <= row) {
                    add_assign(&mut total, &strip.d_q[(row - strip.first) * dh..][..dh]);
                }
                p.rotate_back(d_q, &total, row, p.scale);
            }
        }
    });
    let mut d_kv = match d_present {
        Some(d_present) => d_present.to_vec(),
        None => zeros(n * t * 2 * width),
    };
    par_chunks(&mut d_kv, ROWS * 2 * width, |chunk, d_kv| {
        let mut total = vec![T::zero(); dh];
        for (index, d_kv) in d_kv.chunks_exact_mut(2 * width).enumerate() {
            let (sequence, row) = ((chunk * ROWS + index) / t, (chunk * ROWS + index) % t);
            add_key(p, |head| strips_of(sequence, head), past + row, d_kv);
            for d_k in d_kv[..width].chunks_exact_mut(dh) {
                total.copy_from_slice(d_k);
                p.rotate_back(d_k, &total, row, T::one());
            }
        }
    });
    let batch = if p.shared { 1 } else { n };
    let mut d_past = zeros(batch * past * 2 * width);
    par_chunks(&mut d_past, ROWS * 2 * width, |chunk, d_past| {
        for (index, d_past) in d_past.chunks_exact_mut(2 * width).enumerate() {
            let (sequence, row) = ((chunk * ROWS + index) / past, (chunk * ROWS + index) % past);
            let sequences = if p.shared { 0..n } else { sequence..sequence + 1 };
            for sequence in sequences {
                add_key(p, |head| strips_of(sequence, head), row, d_past);
            }
        }
    });
    (d_q, d_kv, d_past)
}

/// Adds the gradients of key `key` and its value, for all heads of a sequence, to `to` (2·h·d_h).
fn add_key<'a, T: Real>(
    p: &Problem<T>,
    strips_of: impl Fn(usize) -> &'a [StripGradients<T>],
    key: usize,
    to: &mut [T],
) {
    let dh = p.sizes.head_dim;
    let (d_k, d_v) = to.split_at_mut(p.sizes.width());
    for (head, (d_k, d_v)) in d_k.chunks_exact_mut(dh).zip(d_v.chunks_exact_mut(dh)).enumerate() {
        for strip in strips_of(head).iter().filter(|strip| strip.keys.contains(&key)) {
            let offset = (key - strip.keys.start) * dh;
            add_assign(d_k, &strip.d_k[offset..][..dh]);
            add_assign(d_v, &strip.d_v[offset..][..dh]);
        }
    }
}
