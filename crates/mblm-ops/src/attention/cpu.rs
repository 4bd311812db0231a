//! The CPU kernels of attention, and the preparation that they share.
//!
//! [`lanes`] computes many short sequences, one per vector lane. [`dense`] computes few short
//! sequences and decoding, with one small matrix of weights per head; [`decode`] computes one row
//! after a long past. [`blocked`] computes long sequences tile by tile with running softmax
//! statistics.

mod blocked;
mod decode;
mod dense;
mod lanes;
mod problem;
mod rows;

use candle_core::{Result, Tensor};

use super::{Call, Gradients, Sizes};
use crate::cpu::{Real, Slice, from_vec};
use problem::Problem;
use rows::{Strided, with_unit_stride};

/// The kernel that computes a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plan {
    Lanes,
    Dense,
    Blocked(Tiles),
}

/// The tile sizes of the blocked kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiles {
    /// Queries of a tile.
    pub(super) queries: usize,
    /// Keys of a tile.
    pub(super) keys: usize,
    /// Parts into which the backward pass cuts the keys of a head; each has its own query gradient.
    pub(super) strips: usize,
}

/// Queries times keys of a head up to which lanes and the dense kernel are at least as fast.
///
/// Measured with heads of 64 channels.
const DENSE: usize = 72 * 72;

/// Target number of tasks of the blocked kernel's backward pass.
const TASKS: usize = 64;

impl Plan {
    /// The fastest kernel for a call.
    pub(super) fn of(call: &Call) -> Self {
        let plain = call.visible.is_none() && call.a.dropout.is_none();
        Self::for_sizes(&call.sizes, plain)
    }

    /// The fastest kernel for these sizes; `plain` means neither hidden keys nor dropout.
    pub(super) fn for_sizes(sizes: &Sizes, plain: bool) -> Self {
        let pairs = sizes.queries * sizes.keys();
        if plain && sizes.queries > 1 && sizes.sequences >= rows::GROUP && pairs <= DENSE {
            return Self::Lanes;
        }
        if sizes.queries == 1 || pairs <= DENSE {
            return Self::Dense;
        }
        let heads = sizes.sequences * sizes.heads;
        Self::Blocked(Tiles {
            queries: 128,
            keys: 128,
            strips: TASKS.div_ceil(heads).min(8).min(sizes.keys().div_ceil(256)),
        })
    }
}

/// The tensors that the kernels keep for the backward pass.
pub(super) enum Saved {
    /// The weights (⌈n / lanes⌉, h, t, s + t, lanes).
    Lanes { weights: Tensor },
    /// The weights (n, h, t, s + t) before dropout.
    Dense { weights: Tensor },
    /// The output (n, t, h·d_h); and the greatest score and 1 / Σ e^(score - greatest),
    /// (n, h, t, 2).
    Blocked {
        tiles: Tiles,
        out: Tensor,
        statistics: Tensor,
    },
}

pub(super) fn forward<T: Real>(call: &Call, plan: Plan) -> Result<(Tensor, Tensor, Saved)> {
    with_problem(call, |problem: &Problem<T>| {
        let Sizes {
            sequences: n,
            queries: t,
            heads,
            ..
        } = call.sizes;
        let (width, keys) = (call.sizes.width(), call.sizes.keys());
        let tensors = |out, present| {
            Ok::<_, candle_core::Error>((from_vec(out, (n, t, width))?, from_vec(present, (n, t, 2 * width))?))
        };
        match plan {
            Plan::Lanes => {
                let (out, present, weights) = lanes::forward(problem);
                let weights = from_vec(weights, (n.div_ceil(rows::GROUP), heads, t, keys, rows::GROUP))?;
                let (out, present) = tensors(out, present)?;
                Ok((out, present, Saved::Lanes { weights }))
            }
            Plan::Dense => {
                let (out, present, weights) = dense::forward(problem);
                let weights = from_vec(weights, (n, heads, t, keys))?;
                let (out, present) = tensors(out, present)?;
                Ok((out, present, Saved::Dense { weights }))
            }
            Plan::Blocked(tiles) => {
                let (out, present, statistics) = blocked::forward(problem, tiles);
                let (out, present) = tensors(out, present)?;
                let saved = Saved::Blocked {
                    tiles,
                    out: out.clone(),
                    statistics: from_vec(statistics, (n, heads, t, 2))?,
                };
                Ok((out, present, saved))
            }
        }
    })
}

pub(super) fn backward<T: Real>(
    call: &Call,
    saved: &Saved,
    d_out: &Tensor,
    d_present: Option<&Tensor>,
) -> Result<Gradients> {
    let d_out = Slice::<T>::new(d_out)?;
    let d_present = d_present.map(Slice::<T>::new).transpose()?;
    let d_present = d_present.as_deref();
    let Sizes {
        sequences: n,
        queries: t,
        heads,
        ..
    } = call.sizes;
    let keys = call.sizes.keys();
    let (kept, expected) = match saved {
        Saved::Lanes { weights } => (weights, vec![n.div_ceil(rows::GROUP), heads, t, keys, rows::GROUP]),
        Saved::Dense { weights } => (weights, vec![n, heads, t, keys]),
        Saved::Blocked { statistics, .. } => (statistics, vec![n, heads, t, 2]),
    };
    if kept.dims() != expected {
        candle_core::bail!(
            "attention: expected the values that a call of the same sizes saved, found sizes {:?}",
            call.sizes
        );
    }
    let kept = Slice::<T>::new(kept)?;
    with_problem(call, |problem: &Problem<T>| {
        let (d_q, d_kv, d_past) = match saved {
            Saved::Lanes { .. } => lanes::backward(problem, &kept, &d_out, d_present),
            Saved::Dense { .. } => dense::backward(problem, &kept, &d_out, d_present),
            Saved::Blocked { tiles, out, .. } => {
                let out = Slice::<T>::new(out)?;
                blocked::backward(problem, *tiles, (&out, &kept), &d_out, d_present)
            }
        };
        Ok(Gradients {
            d_q: from_vec(d_q, call.q.shape())?,
            d_kv: from_vec(d_kv, call.kv.shape())?,
            d_past: call.past.map(|past| from_vec(d_past, past.shape())).transpose()?,
        })
    })
}

/// Calls `work` with the data of the tensors of `call`.
fn with_problem<T: Real, R>(call: &Call, work: impl FnOnce(&Problem<T>) -> Result<R>) -> Result<R> {
    let (q, kv) = (with_unit_stride(call.q)?, with_unit_stride(call.kv)?);
    let past = call.past.map(with_unit_stride).transpose()?;
    let (q, kv) = (Strided::<T>::new(&q)?, Strided::<T>::new(&kv)?);
    let past = past.as_ref().map(Strided::<T>::new).transpose()?;
    let past = past.as_ref().map(Strided::rows).transpose()?;
    let visible = call.visible.map(Slice::<u8>::new).transpose()?;
    work(&Problem::new(call, q.rows()?, kv.rows()?, past, visible.as_deref()))
}
