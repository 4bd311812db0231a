//! The CPU kernels: each piece of rows is added and normed while it is in the cache.
//!
//! In the backward pass, the gradient of a row's shifted channels belongs to the row before, so a
//! piece also reads the first row of the next piece.

use std::ops::Range;

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::{Gradients, Incoming, Norm, Output, Saved, keep};
use crate::GradBuffer;
use crate::cpu::norm::{self, add_gain, add_gradient};
use crate::cpu::{Real, Slice, add_assign, dot, dot3, from_vec, par_new_rows, par_reduce, par_rows};

/// Sequences per task of the loop over shared previous rows.
const SEQUENCES: usize = 64;

/// Rows from `first` on, each in two parts: its own channels and the channels of the row before.
#[derive(Clone, Copy)]
struct Shifted<'a, T> {
    first: usize,
    residual: &'a [T], // rows from `first` on
    before: &'a [T],   // the row before `first`; empty at the start of a sequence
    previous: &'a [T], // (n | 1, d), empty without a shift
    t: usize,
    d: usize,
    keep: usize,
}

impl<'a, T: Real> Shifted<'a, T> {
    #[inline(always)]
    fn row(&self, row: usize) -> (&'a [T], &'a [T]) {
        let (d, keep) = (self.d, self.keep);
        let at = (row - self.first) * d;
        let own = &self.residual[at..at + keep];
        let before: &[T] = if keep == d {
            &[]
        } else if row.is_multiple_of(self.t) {
            // modulo the length, because all sequences may share one previous row
            let at = row / self.t * d % self.previous.len();
            &self.previous[at + keep..at + d]
        } else if row == self.first {
            &self.before[keep..d]
        } else {
            &self.residual[at - d + keep..at]
        };
        (own, before)
    }
}

/// The factor of a row with this mean square; NaN stays NaN.
#[inline(always)]
fn factor<T: Real>(norm: Norm, mean_square: T) -> T {
    let square = match norm {
        Norm::Clamped if mean_square < T::of(1e-16) => T::of(1e-16),
        Norm::Clamped => mean_square,
        Norm::Eps => mean_square + T::of(1e-5),
    };
    T::one() / square.sqrt()
}

pub(super) fn forward<T: Real>(
    x: &Tensor,
    delta: Option<&Tensor>,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
) -> Result<Output> {
    let (n, t, d) = x.dims3()?;
    let (xs, gains) = (Slice::<T>::new(x)?, Slice::<T>::new(gain)?);
    let deltas = delta.map(Slice::<T>::new).transpose()?;
    let previous_rows = previous.map(Slice::<T>::new).transpose()?;
    let input = Input {
        x: &xs,
        delta: deltas.as_deref(),
        gain: &gains,
        previous: previous_rows.as_deref().unwrap_or_default(),
        t,
        keep: keep(d, previous.is_some()),
        norm,
    };
    let sum_width = if delta.is_some() { d } else { 0 };
    let [residual, normed, scale] = par_new_rows(n * t, [sum_width, d, 1], &mut [], |rows, parts, _| {
        forward_rows(&input, rows, parts);
    });
    Ok(Output {
        residual: match delta {
            Some(_) => from_vec(residual, (n, t, d))?,
            None => x.clone(),
        },
        normed: from_vec(normed, (n, t, d))?,
        saved: Saved {
            scale: Some(from_vec(scale, (n, t))?),
        },
    })
}

/// The inputs of the forward pass, shared by all pieces.
struct Input<'a, T> {
    x: &'a [T],
    delta: Option<&'a [T]>,
    gain: &'a [T],
    previous: &'a [T],
    t: usize,
    keep: usize,
    norm: Norm,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn forward_rows<T: Real>(input: &Input<'_, T>, rows: Range<usize>, [residual, normed, scale]: [&mut [T]; 3]) {
    let (d, keep) = (input.gain.len(), input.keep);
    let span = rows.start * d..rows.end * d;
    let residual: &[T] = match input.delta {
        Some(delta) => {
            for ((to, x), delta) in residual.iter_mut().zip(&input.x[span.clone()]).zip(&delta[span]) {
                *to = *x + *delta;
            }
            residual
        }
        None => &input.x[span],
    };
    let mut before = Vec::new();
    if keep < d && !rows.start.is_multiple_of(input.t) {
        let span = (rows.start - 1) * d..rows.start * d;
        before.extend_from_slice(&input.x[span.clone()]);
        if let Some(delta) = input.delta {
            add_assign(&mut before, &delta[span]);
        }
    }
    let shifted = Shifted {
        first: rows.start,
        residual,
        before: &before,
        previous: input.previous,
        t: input.t,
        d,
        keep,
    };
    let (own_gain, before_gain) = input.gain.split_at(keep);
    for ((row, normed), scale) in rows.zip(normed.chunks_exact_mut(d)).zip(scale) {
        let (own, before) = shifted.row(row);
        let f = factor(input.norm, (dot(own, own) + dot(before, before)) / T::of(d as f64));
        *scale = f;
        let (to_own, to_before) = normed.split_at_mut(keep);
        norm::scale(to_own, own, f, own_gain);
        norm::scale(to_before, before, f, before_gain);
    }
}

pub(super) fn backward<T: Real>(
    residual: &Tensor,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
    scale: &Tensor,
    incoming: &Incoming<'_>,
    d_gain: &mut GradBuffer,
) -> Result<Gradients> {
    let (n, t, d) = residual.dims3()?;
    let (residual, gains, scales) = (
        Slice::<T>::new(residual)?,
        Slice::<T>::new(gain)?,
        Slice::<T>::new(scale)?,
    );
    let previous_rows = previous.map(Slice::<T>::new).transpose()?;
    let d_normed = Slice::<T>::new(incoming.d_normed)?;
    let d_residual = incoming.d_residual.map(Slice::<T>::new).transpose()?;
    let d_last = incoming.d_last.map(Slice::<T>::new).transpose()?;
    let input = BackwardInput {
        shifted: Shifted {
            first: 0,
            residual: &residual,
            before: &[],
            previous: previous_rows.as_deref().unwrap_or_default(),
            t,
            d,
            keep: keep(d, previous.is_some()),
        },
        gain: &gains,
        scale: &scales,
        clamped: match norm {
            Norm::Clamped => factor(norm, T::zero()),
            Norm::Eps => T::infinity(),
        },
        d_normed: &d_normed,
        d_residual: d_residual.as_deref(),
        d_last: d_last.as_deref(),
    };
    let [d_x] = d_gain.update_on_cpu(|d_gain| {
        par_new_rows(n * t, [d], d_gain, |rows, [d_x], d_gain| {
            backward_rows(&input, rows, d_x, d_gain);
        })
    })?;
    Ok(Gradients {
        d_x: from_vec(d_x, (n, t, d))?,
        d_previous: match previous {
            Some(previous) => Some(d_previous(&input, n, previous)?),
            None => None,
        },
    })
}

/// The inputs of the backward pass, shared by all pieces.
struct BackwardInput<'a, T> {
    shifted: Shifted<'a, T>,
    gain: &'a [T],
    scale: &'a [T],
    clamped: T, // the factor of a clamped row
    d_normed: &'a [T],
    d_residual: Option<&'a [T]>,
    d_last: Option<&'a [T]>,
}

/// The terms of one shifted row's gradient, ds = f (g dy − c s), in the parts of [`Shifted::row`].
struct RowGradient<'a, T> {
    own: &'a [T],
    before: &'a [T],
    dy_own: &'a [T],
    dy_before: &'a [T],
    f: T,
    c: T,
}

impl<'a, T: Real> BackwardInput<'a, T> {
    #[inline(always)]
    fn row(&self, row: usize) -> RowGradient<'a, T> {
        let (d, keep) = (self.shifted.d, self.shifted.keep);
        let (own, before) = self.shifted.row(row);
        let (dy_own, dy_before) = self.d_normed[row * d..(row + 1) * d].split_at(keep);
        let f = self.scale[row];
        let c = if f >= self.clamped {
            T::zero()
        } else {
            let product = dot3(&self.gain[..keep], dy_own, own) + dot3(&self.gain[keep..], dy_before, before);
            f * f * product / T::of(d as f64)
        };
        RowGradient {
            own,
            before,
            dy_own,
            dy_before,
            f,
            c,
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn backward_rows<T: Real>(input: &BackwardInput<'_, T>, rows: Range<usize>, d_x: &mut [T], d_gain: &mut [T]) {
    let Shifted { t, d, keep, .. } = input.shifted;
    if let Some(d_residual) = input.d_residual {
        d_x.copy_from_slice(&d_residual[rows.start * d..rows.end * d]);
    }
    let (gain_own, gain_before) = input.gain.split_at(keep);
    let (d_gain_own, d_gain_before) = d_gain.split_at_mut(keep);
    for row in rows.clone() {
        let at = (row - rows.start) * d;
        let g = input.row(row);
        add_gain(d_gain_own, g.dy_own, g.own, g.f);
        add_gain(d_gain_before, g.dy_before, g.before, g.f);
        add_gradient(&mut d_x[at..at + keep], gain_own, g.dy_own, g.own, g.f, g.c);
        if row > rows.start && !row.is_multiple_of(t) {
            add_gradient(
                &mut d_x[at - d + keep..at],
                gain_before,
                g.dy_before,
                g.before,
                g.f,
                g.c,
            );
        }
        if let Some(d_last) = input.d_last
            && (row + 1).is_multiple_of(t)
        {
            let sequence = row / t;
            add_assign(&mut d_x[at..at + d], &d_last[sequence * d..(sequence + 1) * d]);
        }
    }
    if keep < d && !rows.end.is_multiple_of(t) {
        let g = input.row(rows.end);
        let end = d_x.len();
        add_gradient(&mut d_x[end - d + keep..], gain_before, g.dy_before, g.before, g.f, g.c);
    }
}

/// The gradient of the rows before the first, in the shape of `previous`.
fn d_previous<T: Real>(input: &BackwardInput<'_, T>, n: usize, previous: &Tensor) -> Result<Tensor> {
    let d = input.shifted.d;
    let mut to = vec![T::zero(); previous.elem_count()];
    if previous.dim(0)? == n {
        par_rows(n, [(&mut to, d)], &mut [], |sequences, [to], _| {
            for (sequence, to) in sequences.zip(to.chunks_exact_mut(d)) {
                add_before(input, sequence, to);
            }
        });
    } else {
        par_reduce(n, SEQUENCES, &mut to, |sequences, to| {
            for sequence in sequences {
                add_before(input, sequence, to);
            }
        });
    }
    from_vec(to, previous.dims())
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn add_before<T: Real>(input: &BackwardInput<'_, T>, sequence: usize, to: &mut [T]) {
    let keep = input.shifted.keep;
    let g = input.row(sequence * input.shifted.t);
    add_gradient(&mut to[keep..], &input.gain[keep..], g.dy_before, g.before, g.f, g.c);
}
