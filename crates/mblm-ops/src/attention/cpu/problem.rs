//! One call as the kernels see it: data, sizes, and access to rows, keys and heads.

use multiversion::multiversion;

use super::rows::{Lanes, Rows, Run};
use crate::attention::{Attention, Call, Sizes};
use crate::cpu::{Real, par_zeroed};
use crate::rope::Angles;

/// Rows per task of the loops over rows.
const ROWS: usize = 64;

/// The data of a call.
pub(super) struct Problem<'a, T> {
    pub(super) sizes: Sizes,
    pub(super) a: &'a Attention,
    pub(super) q: Rows<'a, T>,
    pub(super) kv: Rows<'a, T>,
    past: Option<Rows<'a, T>>,
    /// Whether all sequences share one past.
    pub(super) shared: bool,
    visible: Option<&'a [u8]>,
    /// The rotation by position, if any.
    angles: Option<Angles<T>>,
    /// 1/√d_h.
    pub(super) scale: T,
}

impl<'a, T: Real> Problem<'a, T> {
    pub(super) fn new(
        call: &'a Call,
        q: Rows<'a, T>,
        kv: Rows<'a, T>,
        past: Option<Rows<'a, T>>,
        visible: Option<&'a [u8]>,
    ) -> Self {
        let (a, sizes) = (call.a, call.sizes);
        Self {
            sizes,
            a,
            q,
            kv,
            past: past.filter(|_| sizes.past > 0),
            shared: call.past.is_some_and(|past| past.dims()[0] == 1),
            visible,
            angles: a.rotary.then(|| Angles::new(call.start, sizes.queries, sizes.head_dim)),
            scale: T::of((sizes.head_dim as f64).powf(-0.5)),
        }
    }

    /// Keys and values of the past rows of a head.
    #[inline(always)]
    pub(super) fn past(&self, sequence: usize, head: usize) -> (Run<'a, T>, Run<'a, T>) {
        match self.past {
            Some(past) => {
                let channel = head * self.sizes.head_dim;
                (
                    past.run(sequence, channel),
                    past.run(sequence, self.sizes.width() + channel),
                )
            }
            None => (Run::EMPTY, Run::EMPTY),
        }
    }

    /// The number of keys that a query sees, hidden keys included.
    #[inline(always)]
    pub(super) fn limit(&self, query: usize) -> usize {
        match self.a.causal {
            true => self.sizes.past + query + 1,
            false => self.sizes.keys(),
        }
    }

    /// Whether some keys may be hidden.
    pub(super) fn hides(&self) -> bool {
        self.visible.is_some()
    }

    /// Visibility of the new keys of a sequence: 0 hides a key.
    #[inline(always)]
    pub(super) fn visible(&self, sequence: usize) -> Option<&'a [u8]> {
        let t = self.sizes.queries;
        self.visible.map(|visible| &visible[sequence * t..][..t])
    }

    /// Multiplies a query's weights, from key `key` on, by 0 or the dropout scale.
    ///
    /// `head` counts over all sequences.
    #[inline(always)]
    pub(super) fn drop(&self, head: usize, query: usize, key: usize, weights: &mut [T]) {
        if let Some(dropout) = &self.a.dropout {
            let scale = T::of(dropout.scale());
            let first = (head * self.sizes.queries + query) * self.sizes.keys() + key;
            for (index, weight) in weights.iter_mut().enumerate() {
                let keeps = dropout.keeps((first + index) as u64);
                *weight *= if keeps { scale } else { T::zero() };
            }
        }
    }

    /// `out = scale · R(x)` for one head's `x` at row `row`.
    #[inline(always)]
    pub(super) fn rotate(&self, out: &mut [T], x: &[T], row: usize, scale: T) {
        self.turn(out, x, row, scale, T::one());
    }

    /// `out = scale · R⁻¹(x)`: the gradient of [`rotate`](Self::rotate).
    #[inline(always)]
    pub(super) fn rotate_back(&self, out: &mut [T], x: &[T], row: usize, scale: T) {
        self.turn(out, x, row, scale, -T::one());
    }

    /// [`rotate`](Self::rotate) in place, for one row (d_h) of each lane's sequence.
    ///
    /// A `direction` of -1 gives the gradient.
    #[inline(always)]
    pub(super) fn rotate_lanes(&self, x: &mut [Lanes<T>], row: usize, scale: T, direction: T) {
        let Some(angles) = &self.angles else {
            for lane in x.as_flattened_mut() {
                *lane *= scale;
            }
            return;
        };
        let half = self.sizes.head_dim / 2;
        let (cos, sin) = angles.row(row);
        let (x1, x2) = x.split_at_mut(half);
        for ((x1, x2), (cos, sin)) in x1.iter_mut().zip(x2).zip(cos.iter().zip(sin)) {
            let (cos, sin) = (*cos * scale, *sin * scale * direction);
            for (x1, x2) in x1.iter_mut().zip(x2) {
                (*x1, *x2) = (*x1 * cos - *x2 * sin, *x2 * cos + *x1 * sin);
            }
        }
    }

    #[inline(always)]
    fn turn(&self, out: &mut [T], x: &[T], row: usize, scale: T, direction: T) {
        let Some(angles) = &self.angles else {
            for (out, x) in out.iter_mut().zip(x) {
                *out = *x * scale;
            }
            return;
        };
        let half = self.sizes.head_dim / 2;
        let (cos, sin) = angles.row(row);
        let (cos, sin) = (&cos[..half], &sin[..half]);
        let (x1, x2) = x[..2 * half].split_at(half);
        let (y1, y2) = out[..2 * half].split_at_mut(half);
        for i in 0..half {
            let (cos, sin) = (cos[i] * scale, sin[i] * scale * direction);
            y1[i] = x1[i] * cos - x2[i] * sin;
            y2[i] = x2[i] * cos + x1[i] * sin;
        }
    }

    /// One row [k̂ | v] of the present.
    #[inline(always)]
    pub(super) fn present_row(&self, out: &mut [T], sequence: usize, row: usize) {
        let (dh, width) = (self.sizes.head_dim, self.sizes.width());
        let kv = self.kv.run(sequence, 0).row(row, 2 * width);
        let (k, v) = kv.split_at(width);
        let (k_out, v_out) = out.split_at_mut(width);
        for (out, k) in k_out.chunks_exact_mut(dh).zip(k.chunks_exact(dh)) {
            self.rotate(out, k, row, T::one());
        }
        v_out.copy_from_slice(v);
    }

    /// The present rows of all sequences, (n, t, 2·h·d_h).
    pub(super) fn present(&self) -> Vec<T> {
        let (n, t, width) = (self.sizes.sequences, self.sizes.queries, 2 * self.sizes.width());
        par_zeroed(n * t * width, ROWS * width, |chunk, rows| {
            present_rows(self, chunk * ROWS, rows);
        })
    }
}

/// Computes present rows from `first` on, counted over all sequences.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn present_rows<T: Real>(problem: &Problem<T>, first: usize, rows: &mut [T]) {
    let t = problem.sizes.queries;
    for (index, row) in rows.chunks_exact_mut(2 * problem.sizes.width()).enumerate() {
        let index = first + index;
        problem.present_row(row, index / t, index % t);
    }
}
