//! Attention over many short sequences: a group at once, one sequence per vector lane.
//!
//! ```text
//! rows of a head, (lane, t, d_h)  →  turned (t, d_h, lane):    w = softmax(q̂ k̂ᵀ),  out = w v    for all lanes in the same steps
//! ```
//!
//! A head has too few rows and channels to fill vectors, and its sums would run across vector
//! lanes. Turned, every step works on whole vectors, whatever the sizes. If the last group has
//! fewer sequences than lanes, the spare lanes repeat its last sequence.

use multiversion::multiversion;
use rayon::prelude::*;

use super::problem::Problem;
use super::rows::{GROUP, Lanes, Rows, Run};
use crate::cpu::{Real, add_assign, zeroed};

/// The sequences of one group.
#[derive(Clone, Copy)]
struct Group {
    first: usize,
    count: usize,
}

impl Group {
    /// Group `index` of `sequences` sequences.
    fn new(index: usize, sequences: usize) -> Self {
        let first = index * GROUP;
        Self {
            first,
            count: GROUP.min(sequences - first),
        }
    }

    /// The sequence in lane `lane`.
    fn sequence(self, lane: usize) -> usize {
        self.first + lane.min(self.count - 1)
    }
}

/// Output (n, t, h·d_h), present (n, t, 2·h·d_h) and weights (groups, h, t, s + t, lanes).
pub(super) fn forward<T: Real>(p: &Problem<T>) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (n, t, heads, width) = (p.sizes.sequences, p.sizes.queries, p.sizes.heads, p.sizes.width());
    let (row, weights_of_group) = (t * width, heads * t * p.sizes.keys() * GROUP);
    let groups = n.div_ceil(GROUP);
    let (mut out, mut present) = (Vec::with_capacity(n * row), Vec::with_capacity(2 * n * row));
    let mut weights = Vec::with_capacity(groups * weights_of_group);
    (out.spare_capacity_mut()[..n * row].par_chunks_mut(GROUP * row))
        .zip(present.spare_capacity_mut()[..2 * n * row].par_chunks_mut(2 * GROUP * row))
        .zip(weights.spare_capacity_mut()[..groups * weights_of_group].par_chunks_mut(weights_of_group))
        .enumerate()
        .for_each(|(index, ((out, present), weights))| {
            let (out, present, weights) = (zeroed(out), zeroed(present), zeroed(weights));
            forward_group(p, Group::new(index, n), out, present, weights);
        });
    // SAFETY: the groups cover everything, and each has zeroed its part at least.
    unsafe {
        out.set_len(n * row);
        present.set_len(2 * n * row);
        weights.set_len(groups * weights_of_group);
    }
    (out, present, weights)
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn forward_group<T: Real>(p: &Problem<T>, group: Group, out: &mut [T], present: &mut [T], weights: &mut [T]) {
    let (t, dh) = (p.sizes.queries, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    for (sequence, present) in present.chunks_exact_mut(t * 2 * width).enumerate() {
        for (row, present) in present.chunks_exact_mut(2 * width).enumerate() {
            p.present_row(present, group.first + sequence, row);
        }
    }
    let present = Rows::contiguous(present, t, 2 * width);
    let mut q = vec![[T::zero(); GROUP]; t * dh];
    let (mut k, mut v) = (vec![[T::zero(); GROUP]; keys * dh], vec![[T::zero(); GROUP]; keys * dh]);
    let mut row_out = vec![[T::zero(); GROUP]; dh];
    let (weights, _) = weights.as_chunks_mut::<GROUP>();
    for (head, weights) in weights.chunks_exact_mut(t * keys).enumerate() {
        let channel = head * dh;
        queries(p, group, channel, &mut q);
        keys_values(p, group, head, (&mut k, &mut v), |lane, channel| {
            present.run(lane.min(group.count - 1), channel)
        });
        let rows = q.chunks_exact(dh).zip(weights.chunks_exact_mut(keys));
        for (row, (q, weights)) in rows.enumerate() {
            let weights = &mut weights[..p.limit(row)];
            dots(weights, q, &k);
            softmax(weights);
            row_out.fill([T::zero(); GROUP]);
            combine(&mut row_out, (weights, 1), &v, weights.len());
            for (lane, out) in out.chunks_exact_mut(t * width).enumerate() {
                turn_back(&mut out[row * width + channel..][..dh], &row_out, lane);
            }
        }
    }
}

/// The rotated and scaled queries of a head.
#[inline(always)]
fn queries<T: Real>(p: &Problem<T>, group: Group, channel: usize, q: &mut [Lanes<T>]) {
    let dh = p.sizes.head_dim;
    turn_rows(q, dh, |lane| p.q.run(group.sequence(lane), channel));
    for (row, q) in q.chunks_exact_mut(dh).enumerate() {
        p.rotate_lanes(q, row, p.scale, T::one());
    }
}

/// The keys and values of a head (s + t, d_h): past rows, then each lane's `new` rows from a
/// channel on.
#[inline(always)]
fn keys_values<'a, T: Real>(
    p: &Problem<'a, T>,
    group: Group,
    head: usize,
    (k, v): (&mut [Lanes<T>], &mut [Lanes<T>]),
    new: impl Fn(usize, usize) -> Run<'a, T>,
) {
    let (dh, width) = (p.sizes.head_dim, p.sizes.width());
    let (past_k, new_k) = k.split_at_mut(p.sizes.past * dh);
    let (past_v, new_v) = v.split_at_mut(p.sizes.past * dh);
    let past = |lane| p.past(group.sequence(lane), head);
    turn_rows(past_k, dh, |lane| past(lane).0);
    turn_rows(past_v, dh, |lane| past(lane).1);
    turn_rows(new_k, dh, |lane| new(lane, head * dh));
    turn_rows(new_v, dh, |lane| new(lane, width + head * dh));
}

/// Fills `to` (rows, d_h) from the rows of each lane.
#[inline(always)]
fn turn_rows<'a, T: Real>(to: &mut [Lanes<T>], dh: usize, rows: impl Fn(usize) -> Run<'a, T>) {
    if to.is_empty() {
        return;
    }
    let rows: [Run<T>; GROUP] = std::array::from_fn(rows);
    for (row, to) in to.chunks_exact_mut(dh).enumerate() {
        let rows: [&[T]; GROUP] = rows.map(|run| run.row(row, dh));
        for (channel, to) in to.iter_mut().enumerate() {
            for lane in 0..GROUP {
                to[lane] = rows[lane][channel];
            }
        }
    }
}

/// Extracts lane `lane` of `from`.
#[inline(always)]
fn turn_back<T: Real>(to: &mut [T], from: &[Lanes<T>], lane: usize) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from[lane];
    }
}

/// `out[j] = x · row j`.
#[inline(always)]
fn dots<T: Real>(out: &mut [Lanes<T>], x: &[Lanes<T>], rows: &[Lanes<T>]) {
    let dh = x.len();
    let row = |index: usize| &rows[index * dh..][..dh];
    let (blocks, rest) = out.as_chunks_mut::<4>();
    let whole = 4 * blocks.len();
    for (block, out) in blocks.iter_mut().enumerate() {
        let [row_a, row_b, row_c, row_d] = [0, 1, 2, 3].map(|index| row(4 * block + index));
        let [mut a, mut b, mut c, mut d] = [[T::zero(); GROUP]; 4];
        for channel in 0..dh {
            let x = &x[channel];
            let (row_a, row_b) = (&row_a[channel], &row_b[channel]);
            let (row_c, row_d) = (&row_c[channel], &row_d[channel]);
            for lane in 0..GROUP {
                a[lane] += x[lane] * row_a[lane];
                b[lane] += x[lane] * row_b[lane];
                c[lane] += x[lane] * row_c[lane];
                d[lane] += x[lane] * row_d[lane];
            }
        }
        *out = [a, b, c, d];
    }
    for (index, out) in rest.iter_mut().enumerate() {
        let mut sum = [T::zero(); GROUP];
        for (x, y) in x.iter().zip(row(whole + index)) {
            add_product(&mut sum, x, y);
        }
        *out = sum;
    }
}

/// `out += Σ_j weights[j · stride] · row j`, for `count` rows.
#[inline(always)]
fn combine<T: Real>(out: &mut [Lanes<T>], (weights, stride): (&[Lanes<T>], usize), rows: &[Lanes<T>], count: usize) {
    let dh = out.len();
    let (blocks, rest) = out.as_chunks_mut::<4>();
    let whole = 4 * blocks.len();
    for (block, out) in blocks.iter_mut().enumerate() {
        let [mut a, mut b, mut c, mut d] = *out;
        for row in 0..count {
            let weight = &weights[row * stride];
            let channels = &rows[row * dh + 4 * block..][..4];
            let (row_a, row_b, row_c, row_d) = (&channels[0], &channels[1], &channels[2], &channels[3]);
            for lane in 0..GROUP {
                a[lane] += weight[lane] * row_a[lane];
                b[lane] += weight[lane] * row_b[lane];
                c[lane] += weight[lane] * row_c[lane];
                d[lane] += weight[lane] * row_d[lane];
            }
        }
        *out = [a, b, c, d];
    }
    for (index, out) in rest.iter_mut().enumerate() {
        let mut sum = *out;
        for row in 0..count {
            add_product(&mut sum, &weights[row * stride], &rows[row * dh + whole + index]);
        }
        *out = sum;
    }
}

#[inline(always)]
fn add_product<T: Real>(sum: &mut Lanes<T>, a: &Lanes<T>, b: &Lanes<T>) {
    for lane in 0..GROUP {
        sum[lane] += a[lane] * b[lane];
    }
}

/// Softmax over the keys, in each lane.
#[inline(always)]
fn softmax<T: Real>(scores: &mut [Lanes<T>]) {
    let mut greatest = [T::neg_infinity(); GROUP];
    for score in scores.iter() {
        for lane in 0..GROUP {
            greatest[lane] = if score[lane] > greatest[lane] {
                score[lane]
            } else {
                greatest[lane]
            };
        }
    }
    let mut sum = [T::zero(); GROUP];
    for score in scores.iter_mut() {
        for lane in 0..GROUP {
            score[lane] = (score[lane] - greatest[lane]).fast_exp();
        }
        for lane in 0..GROUP {
            sum[lane] += score[lane];
        }
    }
    let inverse = sum.map(|sum| T::one() / sum);
    for score in scores {
        for lane in 0..GROUP {
            score[lane] *= inverse[lane];
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
    let (n, t, heads, width) = (p.sizes.sequences, p.sizes.queries, p.sizes.heads, p.sizes.width());
    let (row, past) = (t * width, p.sizes.past * 2 * width);
    let weights_of_group = heads * t * p.sizes.keys() * GROUP;
    let (mut d_q, mut d_kv) = (Vec::with_capacity(n * row), Vec::with_capacity(2 * n * row));
    let input = Input { p, d_out, d_present };
    let d_pasts: Vec<Vec<T>> = (d_q.spare_capacity_mut()[..n * row].par_chunks_mut(GROUP * row))
        .zip(d_kv.spare_capacity_mut()[..2 * n * row].par_chunks_mut(2 * GROUP * row))
        .zip(weights.par_chunks(weights_of_group))
        .enumerate()
        .map(|(index, ((d_q, d_kv), weights))| {
            let group = Group::new(index, n);
            let mut d_past = vec![T::zero(); if p.shared { past } else { group.count * past }];
            backward_group(&input, group, weights, (zeroed(d_q), zeroed(d_kv), &mut d_past));
            d_past
        })
        .collect();
    // SAFETY: the groups cover everything, and each has zeroed its part at least.
    unsafe {
        d_q.set_len(n * row);
        d_kv.set_len(2 * n * row);
    }
    let d_past = match p.shared {
        true => {
            let mut total = vec![T::zero(); past];
            d_pasts.iter().for_each(|d_past| add_assign(&mut total, d_past));
            total
        }
        false => d_pasts.concat(),
    };
    (d_q, d_kv, d_past)
}

/// The inputs of the backward pass, shared by all groups.
struct Input<'a, 'p, T> {
    p: &'a Problem<'p, T>,
    d_out: &'a [T],
    d_present: Option<&'a [T]>,
}

/// Computes `d_q` and `d_kv` of a group; `d_past` per sequence, or one sum if they share the past.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn backward_group<T: Real>(
    input: &Input<'_, '_, T>,
    group: Group,
    weights: &[T],
    (d_q, d_kv, d_past): (&mut [T], &mut [T], &mut [T]),
) {
    let p = input.p;
    let (t, past, dh) = (p.sizes.queries, p.sizes.past, p.sizes.head_dim);
    let (keys, width) = (p.sizes.keys(), p.sizes.width());
    let lanes = |rows: usize| vec![[T::zero(); GROUP]; rows * dh];
    let (mut q, mut k, mut v, mut d_outs) = (lanes(t), lanes(keys), lanes(keys), lanes(t));
    let (mut d_k, mut d_v, mut d_q_row) = (lanes(keys), lanes(keys), lanes(1));
    let mut d_scores = vec![[T::zero(); GROUP]; t * keys];
    let d_out = Rows::contiguous(input.d_out, t, width);
    let d_present = input.d_present.map(|data| Rows::contiguous(data, t, 2 * width));
    let (weights, _) = weights.as_chunks::<GROUP>();
    for (head, weights) in weights.chunks_exact(t * keys).enumerate() {
        let channel = head * dh;
        queries(p, group, channel, &mut q);
        turn_rows(&mut d_outs, dh, |lane| d_out.run(group.sequence(lane), channel));
        keys_values(p, group, head, (&mut k, &mut v), |lane, channel| {
            p.kv.run(group.sequence(lane), channel)
        });
        for (row, k) in k[past * dh..].chunks_exact_mut(dh).enumerate() {
            p.rotate_lanes(k, row, T::one(), T::one());
        }
        d_k.fill([T::zero(); GROUP]);
        d_v.fill([T::zero(); GROUP]);
        if let Some(d_present) = d_present {
            let rows = |lane, part| d_present.run(group.sequence(lane), part * width + channel);
            turn_rows(&mut d_k[past * dh..], dh, |lane| rows(lane, 0));
            turn_rows(&mut d_v[past * dh..], dh, |lane| rows(lane, 1));
        }
        for (row, d_scores) in d_scores.chunks_exact_mut(keys).enumerate() {
            let seen = p.limit(row);
            let (weights, d_scores) = (&weights[row * keys..][..seen], &mut d_scores[..seen]);
            dots(d_scores, &d_outs[row * dh..][..dh], &v);
            scores_gradient(d_scores, weights);
            d_q_row.fill([T::zero(); GROUP]);
            combine(&mut d_q_row, (d_scores, 1), &k, seen);
            p.rotate_lanes(&mut d_q_row, row, p.scale, -T::one());
            for (lane, d_q) in d_q.chunks_exact_mut(t * width).enumerate() {
                turn_back(&mut d_q[row * width + channel..][..dh], &d_q_row, lane);
            }
        }
        for (key, (d_k, d_v)) in d_k.chunks_exact_mut(dh).zip(d_v.chunks_exact_mut(dh)).enumerate() {
            // the first query that sees the key
            let first = if p.a.causal { key.saturating_sub(past) } else { 0 };
            let column = first * keys + key;
            combine(d_k, (&d_scores[column..], keys), &q[first * dh..], t - first);
            combine(d_v, (&weights[column..], keys), &d_outs[first * dh..], t - first);
        }
        for (row, d_k) in d_k[past * dh..].chunks_exact_mut(dh).enumerate() {
            p.rotate_lanes(d_k, row, T::one(), -T::one());
        }
        for (part, gradient) in [&d_k, &d_v].into_iter().enumerate() {
            let (of_past, of_new) = gradient.split_at(past * dh);
            let at = |row: usize| row * 2 * width + part * width + channel;
            for (row, from) in of_past.chunks_exact(dh).enumerate() {
                for lane in 0..group.count {
                    let own = if p.shared { 0 } else { lane * past * 2 * width };
                    for (to, from) in d_past[own + at(row)..][..dh].iter_mut().zip(from) {
                        *to += from[lane];
                    }
                }
            }
            for (lane, d_kv) in d_kv.chunks_exact_mut(t * 2 * width).enumerate() {
                for (row, from) in of_new.chunks_exact(dh).enumerate() {
                    turn_back(&mut d_kv[at(row)..][..dh], from, lane);
                }
            }
        }
    }
}

/// Turns the gradients of a query's weights into gradients of its scores: w (dw − Σ w dw).
#[inline(always)]
fn scores_gradient<T: Real>(gradients: &mut [Lanes<T>], weights: &[Lanes<T>]) {
    let mut mean = [T::zero(); GROUP];
    for (gradient, weight) in gradients.iter().zip(weights) {
        add_product(&mut mean, gradient, weight);
    }
    for (gradient, weight) in gradients.iter_mut().zip(weights) {
        for lane in 0..GROUP {
            gradient[lane] = weight[lane] * (gradient[lane] - mean[lane]);
        }
    }
}
