//! Attention over short sequences: the whole weight matrix of a head, a few sequences per task.
//!
//! Decoding (t = 1) takes the same steps with one head per task and reads the past in place. After
//! a long past, [`decode`] computes it instead.

use multiversion::multiversion;
use rayon::prelude::*;

use super::decode;
use super::problem::Problem;
use super::rows::{LANES, Rows, Run, combine, dots, maximum};
use crate::cpu::{Real, add_assign, dot, par_map, sum, zeros};

/// Fewest multiplications that are worth a task.
const WORK: usize = 1 << 17;

/// The same for decoding, which has few tasks and whose threads are already awake.
const DECODE_WORK: usize = 1 << 14;

/// Most partial sums of the gradient of a shared past.
const PARTIALS: usize = 64;

/// Keys and values of a head: the past rows, then the new ones.
struct Head<'a, T> {
    /// The head's index among the heads of all sequences.
    index: usize,
    past: (Run<'a, T>, Run<'a, T>),
    new: (Run<'a, T>, Run<'a, T>),
    visible: Option<&'a [u8]>,
}

/// Sequences per task.
fn piece<T: Real>(p: &Problem<T>) -> usize {
    (WORK / (2 * p.sizes.queries * p.sizes.keys() * p.sizes.width())).max(1)
}

/// The output, the present and the weights before dropout.
pub(super) fn forward<T: Real>(p: &Problem<T>) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (n, t, heads, dh) = (p.sizes.sequences, p.sizes.queries, p.sizes.heads, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    if decode::serves(p) {
        let present = p.present();
        let (out, weights) = decode::forward(p, &present);
        return (out, present, weights);
    }
    let mut out = zeros(n * t * width);
    let mut weights = zeros(n * heads * t * keys);
    if t == 1 {
        let present = p.present();
        let heads_per_task = (DECODE_WORK / (2 * keys * dh)).max(1);
        let work = |task: usize, (out, weights): (&mut [T], &mut [T])| {
            decode_heads(p, task * heads_per_task, &present, out, weights);
        };
        in_pieces(
            (&mut out, heads_per_task * dh),
            (&mut weights, heads_per_task * keys),
            work,
        );
        return (out, present, weights);
    }
    let mut present = zeros(n * t * 2 * width);
    let piece = piece(p);
    let work = |task: usize, (out, present, weights): (&mut [T], &mut [T], &mut [T])| {
        forward_sequences(p, task * piece, out, present, weights);
    };
    if n <= piece {
        work(0, (&mut out, &mut present, &mut weights));
    } else {
        out.par_chunks_mut(piece * t * width)
            .zip(present.par_chunks_mut(piece * t * 2 * width))
            .zip(weights.par_chunks_mut(piece * heads * t * keys))
            .enumerate()
            .for_each(|(task, ((out, present), weights))| work(task, (out, present, weights)));
    }
    (out, present, weights)
}

/// Calls `work` for consecutive pieces of two slices; a single piece runs on this thread.
fn in_pieces<T: Real>(
    (a, a_len): (&mut [T], usize),
    (b, b_len): (&mut [T], usize),
    work: impl Fn(usize, (&mut [T], &mut [T])) + Sync + Send,
) {
    if a.len() <= a_len {
        return work(0, (a, b));
    }
    let pieces = a.chunks_mut(a_len).zip(b.chunks_mut(b_len)).collect();
    par_map(pieces, true, work);
}

/// Attends from one new row of each of consecutive heads, from `first` of all sequences' heads on.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn decode_heads<T: Real>(p: &Problem<T>, first: usize, present: &[T], out: &mut [T], weights: &mut [T]) {
    let (dh, width, keys) = (p.sizes.head_dim, p.sizes.width(), p.sizes.keys());
    let present = Rows::contiguous(present, 1, 2 * width);
    let mut query = vec![T::zero(); dh];
    let mut scores = vec![T::zero(); keys.next_multiple_of(LANES)];
    for (index, (out, weights)) in out.chunks_exact_mut(dh).zip(weights.chunks_exact_mut(keys)).enumerate() {
        let index = first + index;
        let (sequence, head) = (index / p.sizes.heads, index % p.sizes.heads);
        let channel = head * dh;
        let head = Head {
            index,
            past: p.past(sequence, head),
            new: (present.run(sequence, channel), present.run(sequence, width + channel)),
            visible: p.visible(sequence),
        };
        p.rotate(&mut query, p.q.run(sequence, channel).row(0, dh), 0, p.scale);
        attend(p, &head, 0, &query, weights, &mut scores, out);
    }
}

/// Computes consecutive sequences from `first` on.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn forward_sequences<T: Real>(p: &Problem<T>, first: usize, out: &mut [T], present: &mut [T], weights: &mut [T]) {
    let (t, heads, dh) = (p.sizes.queries, p.sizes.heads, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    let mut query = vec![T::zero(); dh];
    let mut scores = vec![T::zero(); keys.next_multiple_of(LANES)];
    let sequences = out
        .chunks_exact_mut(t * width)
        .zip(present.chunks_exact_mut(t * 2 * width))
        .zip(weights.chunks_exact_mut(heads * t * keys));
    for (index, ((out, present), weights)) in sequences.enumerate() {
        let sequence = first + index;
        for (row, present) in present.chunks_exact_mut(2 * width).enumerate() {
            p.present_row(present, sequence, row);
        }
        let present = Rows::contiguous(present, t, 2 * width);
        for (head, weights) in weights.chunks_exact_mut(t * keys).enumerate() {
            let channel = head * dh;
            let queries = p.q.run(sequence, channel);
            let head = Head {
                index: sequence * heads + head,
                past: p.past(sequence, head),
                new: (present.run(0, channel), present.run(0, width + channel)),
                visible: p.visible(sequence),
            };
            for (row, weights) in weights.chunks_exact_mut(keys).enumerate() {
                p.rotate(&mut query, queries.row(row, dh), row, p.scale);
                let out = &mut out[row * width + channel..][..dh];
                attend(p, &head, row, &query, weights, &mut scores, out);
            }
        }
    }
}

/// Attends from one query of one head: writes its weights and adds the mix of values to `out`.
///
/// `out` must be zero. `scores` has room for all keys, rounded up to a multiple of the lanes.
#[inline(always)]
fn attend<T: Real>(
    p: &Problem<T>,
    head: &Head<T>,
    row: usize,
    query: &[T],
    weights: &mut [T],
    scores: &mut [T],
    out: &mut [T],
) {
    let (past, limit) = (p.sizes.past, p.limit(row));
    dots(&mut scores[..past], query, head.past.0);
    dots(&mut scores[past..limit], query, head.new.0);
    scores[limit..].fill(T::neg_infinity());
    if let Some(visible) = head.visible {
        for (score, visible) in scores[past..limit].iter_mut().zip(visible) {
            *score = if *visible == 0 { T::min_value() } else { *score };
        }
    }
    softmax(scores);
    weights.copy_from_slice(&scores[..weights.len()]);
    p.drop(head.index, row, 0, &mut scores[..limit]);
    combine(out, (scores, 1), head.past.1, past);
    combine(out, (&scores[past..], 1), head.new.1, limit - past);
}

/// Softmax of a multiple of [`LANES`] scores, so that short rows vectorize too.
#[inline(always)]
fn softmax<T: Real>(scores: &mut [T]) {
    let maximum = maximum(scores);
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let mut sums = [T::zero(); LANES];
    for chunk in chunks.iter_mut() {
        for score in chunk.iter_mut() {
            *score = (*score - maximum).fast_exp();
        }
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    let inverse = T::one() / sum(&sums);
    for chunk in chunks {
        for weight in chunk {
            *weight *= inverse;
        }
    }
}

/// The gradients of q, kv and the past, from the weights of [`forward`].
pub(super) fn backward<T: Real>(
    p: &Problem<T>,
    weights: &[T],
    d_out: &[T],
    d_present: Option<&[T]>,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (n, t, width) = (p.sizes.sequences, p.sizes.queries, p.sizes.width());
    let past = p.sizes.past * 2 * width;
    let mut piece = piece(p);
    if p.shared && past > 0 {
        piece = piece.max(n.div_ceil(PARTIALS));
    }
    let mut d_q = zeros(n * t * width);
    let mut d_kv = match d_present {
        Some(d_present) => d_present.to_vec(),
        None => zeros(n * t * 2 * width),
    };
    let tasks = n.div_ceil(piece);
    // shared past: one partial sum per task; otherwise one gradient per sequence
    let (per_task, mut d_past) = match p.shared {
        true => (past, vec![T::zero(); tasks * past]),
        false => (piece * past, vec![T::zero(); n * past]),
    };
    let mut d_pasts: Vec<&mut [T]> = match past {
        0 => (0..tasks).map(|_| Default::default()).collect(),
        _ => d_past.chunks_mut(per_task).collect(),
    };
    d_q.par_chunks_mut(piece * t * width)
        .zip(d_kv.par_chunks_mut(piece * t * 2 * width))
        .zip(d_pasts.par_iter_mut())
        .enumerate()
        .for_each(|(task, ((d_q, d_kv), d_past))| {
            backward_sequences(p, task * piece, (weights, d_out), d_q, d_kv, d_past);
        });
    if p.shared && past > 0 {
        let (total, partials) = d_past.split_at_mut(past);
        for partial in partials.chunks_exact(past) {
            add_assign(total, partial);
        }
        d_past.truncate(past);
    }
    (d_q, d_kv, d_past)
}

/// The buffers of a task of the backward pass.
struct Scratch<T> {
    /// Rotated and scaled queries of a head (t, d_h).
    queries: Vec<T>,
    /// Rotated keys of a head (t, d_h).
    keys: Vec<T>,
    /// Gradients of the scores of a head (t, s + t).
    d_scores: Vec<T>,
    /// Weights of a head after dropout (t, s + t).
    dropped: Vec<T>,
    /// One row of a head.
    row: Vec<T>,
}

/// Computes consecutive sequences from `first` on.
///
/// On entry `d_kv` holds the gradient of the present rows; the gradient of the past is added to
/// `d_past`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn backward_sequences<T: Real>(
    p: &Problem<T>,
    first: usize,
    (weights, d_out): (&[T], &[T]),
    d_q: &mut [T],
    d_kv: &mut [T],
    d_past: &mut [T],
) {
    let (t, past, heads, dh) = (p.sizes.queries, p.sizes.past, p.sizes.heads, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    let mut scratch = Scratch {
        queries: vec![T::zero(); t * dh],
        keys: vec![T::zero(); t * dh],
        d_scores: vec![T::zero(); t * keys],
        dropped: vec![T::zero(); t * keys],
        row: vec![T::zero(); dh],
    };
    let d_outs = Rows::contiguous(d_out, t, width);
    let sequences = d_q
        .chunks_exact_mut(t * width)
        .zip(d_kv.chunks_exact_mut(t * 2 * width));
    for (index, (d_q, d_kv)) in sequences.enumerate() {
        let sequence = first + index;
        let own = if p.shared { 0 } else { index * past * 2 * width };
        for head in 0..heads {
            let index = sequence * heads + head;
            let weights = &weights[index * t * keys..][..t * keys];
            let d_out = d_outs.run(sequence, head * dh);
            backward_scores(p, (sequence, head), weights, d_out, &mut scratch);
            let dropped = match p.a.dropout {
                Some(_) => &scratch.dropped,
                None => weights,
            };
            let d_past = &mut d_past[own..];
            backward_head(p, (sequence, head), dropped, d_out, &scratch, (d_q, d_kv, d_past));
        }
        rotate_gradients(p, &mut scratch.row, d_q, d_kv);
    }
}

/// Fills the scratch: rotated queries and keys, gradients of the scores, weights after dropout.
#[inline(always)]
fn backward_scores<T: Real>(
    p: &Problem<T>,
    (sequence, head): (usize, usize),
    weights: &[T],
    d_out: Run<T>,
    scratch: &mut Scratch<T>,
) {
    let (past, dh, keys, width) = (p.sizes.past, p.sizes.head_dim, p.sizes.keys(), p.sizes.width());
    let channel = head * dh;
    let (q, k) = (p.q.run(sequence, channel), p.kv.run(sequence, channel));
    let (_, past_values) = p.past(sequence, head);
    let values = p.kv.run(sequence, width + channel);
    let index = sequence * p.sizes.heads + head;
    for row in 0..p.sizes.queries {
        p.rotate(&mut scratch.queries[row * dh..][..dh], q.row(row, dh), row, p.scale);
        p.rotate(&mut scratch.keys[row * dh..][..dh], k.row(row, dh), row, T::one());
        let limit = p.limit(row);
        let weights = &weights[row * keys..][..limit];
        let d_scores = &mut scratch.d_scores[row * keys..][..keys];
        let (seen, unseen) = d_scores.split_at_mut(limit);
        unseen.fill(T::zero());
        dots(&mut seen[..past], d_out.row(row, dh), past_values);
        dots(&mut seen[past..], d_out.row(row, dh), values);
        if p.a.dropout.is_some() {
            p.drop(index, row, 0, seen);
            let dropped = &mut scratch.dropped[row * keys..][..limit];
            dropped.copy_from_slice(weights);
            p.drop(index, row, 0, dropped);
        }
        let mean = dot(seen, weights);
        for (d_score, weight) in seen.iter_mut().zip(weights) {
            *d_score = *weight * (*d_score - mean);
        }
        if let Some(visible) = p.visible(sequence) {
            for (d_score, visible) in seen[past..].iter_mut().zip(visible) {
                *d_score = if *visible == 0 { T::zero() } else { *d_score };
            }
        }
    }
}

/// Adds one head's gradients of rotated queries and keys to its sequence; not yet rotated back.
#[inline(always)]
fn backward_head<T: Real>(
    p: &Problem<T>,
    (sequence, head): (usize, usize),
    dropped: &[T],
    d_out: Run<T>,
    scratch: &Scratch<T>,
    (d_q, d_kv, d_past): (&mut [T], &mut [T], &mut [T]),
) {
    let (t, past, dh) = (p.sizes.queries, p.sizes.past, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    let channel = head * dh;
    let (past_keys, _) = p.past(sequence, head);
    let head_rows = |data| Run { data, stride: dh };
    for row in 0..t {
        let d_q = &mut d_q[row * width + channel..][..dh];
        let d_scores = &scratch.d_scores[row * keys..][..p.limit(row)];
        combine(d_q, (d_scores, 1), past_keys, past);
        combine(
            d_q,
            (&d_scores[past..], 1),
            head_rows(&scratch.keys),
            d_scores.len() - past,
        );
    }
    for key in 0..keys {
        // the first query that sees the key
        let first = if p.a.causal { key.saturating_sub(past) } else { 0 };
        let row = match key.checked_sub(past) {
            Some(row) => &mut d_kv[row * 2 * width..][..2 * width],
            None => &mut d_past[key * 2 * width..][..2 * width],
        };
        let (d_k, d_v) = row.split_at_mut(width);
        let (d_k, d_v) = (&mut d_k[channel..][..dh], &mut d_v[channel..][..dh]);
        let column = first * keys + key;
        let queries = head_rows(&scratch.queries).from(first);
        combine(d_k, (&scratch.d_scores[column..], keys), queries, t - first);
        combine(d_v, (&dropped[column..], keys), d_out.from(first), t - first);
    }
}

/// Rotates back the gradients of a sequence's queries and keys.
#[inline(always)]
fn rotate_gradients<T: Real>(p: &Problem<T>, scratch: &mut [T], d_q: &mut [T], d_kv: &mut [T]) {
    let (dh, width) = (p.sizes.head_dim, p.sizes.width());
    let rows = d_q.chunks_exact_mut(width).zip(d_kv.chunks_exact_mut(2 * width));
    for (row, (d_q, d_kv)) in rows.enumerate() {
        for d_q in d_q.chunks_exact_mut(dh) {
            scratch.copy_from_slice(d_q);
            p.rotate_back(d_q, scratch, row, p.scale);
        }
        if p.a.rotary {
            for d_k in d_kv[..width].chunks_exact_mut(dh) {
                scratch.copy_from_slice(d_k);
                p.rotate_back(d_k, scratch, row, T::one());
            }
        }
    }
}
