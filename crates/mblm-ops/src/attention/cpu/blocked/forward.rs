//! The forward pass over long sequences, one block of queries per task.

use multiversion::multiversion;
use rayon::prelude::*;

use super::tile::{Head, ROWS, Tile, key_tiles, rotate_queries, rows_of, tile_of, tile_product};
use crate::attention::cpu::Tiles;
use crate::attention::cpu::problem::Problem;
use crate::attention::cpu::rows::{Rows, maximum};
use crate::cpu::{Beta, Dims, Real, par_chunks, sum, zeros};

/// The output, the present and the statistics (n, h, t, 2).
pub(in crate::attention::cpu) fn forward<T: Real>(p: &Problem<T>, tiles: Tiles) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (n, t, heads, dh) = (p.sizes.sequences, p.sizes.queries, p.sizes.heads, p.sizes.head_dim);
    let width = p.sizes.width();
    let present = p.present();
    let rows = Rows::contiguous(&present, t, 2 * width);
    let mut mixed = zeros(n * heads * t * dh); // (n, h, t, d_h)
    let mut statistics = vec![T::zero(); n * heads * t * 2];
    mixed
        .par_chunks_mut(t * dh)
        .zip(statistics.par_chunks_mut(t * 2))
        .enumerate()
        .for_each(|(index, (mixed, statistics))| {
            let (sequence, channel) = (index / heads, index % heads * dh);
            let (keys, values) = (rows.run(sequence, channel), rows.run(sequence, width + channel));
            let head = Head::new(p, index, keys, values);
            mixed
                .par_chunks_mut(tiles.queries * dh)
                .zip(statistics.par_chunks_mut(tiles.queries * 2))
                .enumerate()
                .for_each(|(block, (mixed, statistics))| {
                    forward_block(p, tiles, &head, block * tiles.queries, mixed, statistics);
                });
        });
    let mut out = zeros(n * t * width);
    par_chunks(&mut out, ROWS * width, |chunk, out| {
        for (index, out) in out.chunks_exact_mut(width).enumerate() {
            let (sequence, row) = ((chunk * ROWS + index) / t, (chunk * ROWS + index) % t);
            for (head, out) in out.chunks_exact_mut(dh).enumerate() {
                out.copy_from_slice(&mixed[((sequence * heads + head) * t + row) * dh..][..dh]);
            }
        }
    });
    (out, present, statistics)
}

/// Computes the queries of a head from `first` on; `out` (rows, d_h) must be zero.
fn forward_block<T: Real>(
    p: &Problem<T>,
    tiles: Tiles,
    head: &Head<T>,
    first: usize,
    out: &mut [T],
    statistics: &mut [T],
) {
    let dh = p.sizes.head_dim;
    let rows = out.len() / dh;
    let mut queries = vec![T::zero(); rows * dh];
    rotate_queries(p, head.index, first, &mut queries);
    let mut scores = vec![T::zero(); rows * tiles.keys];
    for statistics in statistics.chunks_exact_mut(2) {
        statistics[0] = T::neg_infinity();
    }
    for keys in key_tiles(0..p.limit(first + rows - 1), tiles.keys, p.sizes.past) {
        let (k, v) = head.rows(keys.start);
        let count = keys.len();
        let tile = Tile::new(p, head, first, keys, tiles.keys);
        tile_product(
            &mut scores,
            tile.stride,
            Beta::Zero,
            Dims::new(rows, count, dh),
            tile_of(&queries, dh),
            rows_of(k).transposed(),
        );
        softmax_tile(p, &tile, &mut scores, statistics, out);
        tile.drop(p, head, rows, &mut scores);
        tile_product(
            out,
            dh,
            Beta::One,
            Dims::new(rows, dh, count),
            tile_of(&scores, tile.stride),
            rows_of(v),
        );
    }
    for (out, statistics) in out.chunks_exact_mut(dh).zip(statistics.chunks_exact_mut(2)) {
        statistics[1] = T::one() / statistics[1];
        for out in out {
            *out *= statistics[1];
        }
    }
}

/// Turns a tile of scores into e^(score - m).
///
/// Updates (m, l) of each row, and rescales the row's output if m grew.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn softmax_tile<T: Real>(p: &Problem<T>, tile: &Tile, scores: &mut [T], statistics: &mut [T], out: &mut [T]) {
    let rows = statistics
        .chunks_exact_mut(2)
        .zip(out.chunks_exact_mut(p.sizes.head_dim))
        .zip(scores.chunks_exact_mut(tile.stride));
    for (row, ((statistics, out), scores)) in rows.enumerate() {
        let (seen, unseen) = scores[..tile.keys.len()].split_at_mut(tile.limit(p, row));
        unseen.fill(T::zero());
        // the first tile always holds a key that the query sees, so m is finite from then on
        if seen.is_empty() {
            continue;
        }
        tile.hide(seen);
        let before = statistics[0];
        let tile_maximum = maximum(seen);
        let after = if tile_maximum > before { tile_maximum } else { before };
        for score in seen.iter_mut() {
            *score = (*score - after).fast_exp();
        }
        let mut total = sum(seen);
        if after > before {
            let factor = (before - after).fast_exp();
            total += statistics[1] * factor;
            for out in out {
                *out *= factor;
            }
        } else {
            total += statistics[1];
        }
        statistics[0] = after;
        statistics[1] = total;
    }
}
