//! The backward pass of one chunk.
//!
//! From the gradients of its outputs and of the states before and after it to the gradients of its
//! inputs.
//!
//! The formulas are in `gradient.rs`.

use candle_core::WithDType;
use multiversion::multiversion;

use super::scan::{Scan, Steps, scale_heads, scale_heads_in_place};
use crate::cpu::{Beta, Dims, Matrix, MatrixMut, Real, Threads, dot, product_into};

/// The sums of one chunk, by head.
pub(super) struct Partial {
    pub(super) a: Vec<f64>,
    pub(super) d: Vec<f64>,
    pub(super) dt_bias: Vec<f64>,
}

/// The gradients of one chunk, accumulated term by term.
pub(super) struct Chunk<'a, T> {
    pub(super) scan: &'a Scan<'a, T>,
    pub(super) steps: &'a Steps<T>,
    pub(super) task: usize,
    pub(super) first: usize,
    /// (q, H·P).
    pub(super) dy: &'a [T],
    /// X = Δ x, (q, H·P).
    pub(super) scaled: Vec<T>,
    /// dX, (q, H·P).
    pub(super) d_scaled: Vec<T>,
    /// dc, (H, q).
    pub(super) d_sums: Vec<f64>,
}

impl<T: Real> Chunk<'_, T> {
    /// Adds the gradients through the terms exp(c_Q - c_j) X_j ⊗ B_j of the state after the chunk.
    ///
    /// `after` is the gradient of that state.
    pub(super) fn through_state_after(&mut self, after: &[T], d_xbc: &mut [T]) {
        let (scan, rows) = (self.scan, self.steps.rows);
        let (width, state, heads, row) = (scan.width(), scan.state, scan.heads, scan.row());
        let (_, b, _) = scan.xbc(self.first);
        let d_scaled = &mut self.d_scaled;
        product_into(
            MatrixMut::new(d_scaled, width),
            Beta::Zero,
            Dims::new(rows, width, state),
            Matrix::new(b, row, 1),
            Matrix::new(after, 1, state),
            Threads::One,
        );
        let factors = self.steps.by_row(|head, row| self.steps.to_end(head, row));
        let mut weighed = vec![T::zero(); rows * width];
        scale_heads(&mut weighed, &self.scaled, width, &factors, heads);
        let mut shares = vec![T::zero(); rows * heads];
        dot_heads(&mut shares, &weighed, d_scaled);
        for (index, share) in shares.iter().enumerate() {
            let (head, share) = (index % heads, WithDType::to_f64(*share));
            self.d_sums[head * rows + rows - 1] += share;
            self.d_sums[head * rows + index / heads] -= share;
        }
        scale_heads_in_place(d_scaled, &factors);
        let d_b = MatrixMut::new(&mut d_xbc[width..], row);
        product_into(
            d_b,
            Beta::One,
            Dims::new(rows, state, width),
            Matrix::new(&weighed, width, 1),
            Matrix::new(after, state, 1),
            Threads::One,
        );
    }

    /// Adds the gradients through the terms exp(c_i) S C_i of y, with S = `before`.
    pub(super) fn through_state_before(&mut self, before: &[T], d_xbc: &mut [T]) {
        let (scan, rows) = (self.scan, self.steps.rows);
        let (width, state, heads, row) = (scan.width(), scan.state, scan.heads, scan.row());
        let (_, _, c) = scan.xbc(self.first);
        let mut reached = vec![T::zero(); rows * width];
        product_into(
            MatrixMut::new(&mut reached, width),
            Beta::Zero,
            Dims::new(rows, width, state),
            Matrix::new(c, row, 1),
            scan.transposed(self.task, before),
            Threads::One,
        );
        let factors = self.steps.by_row(|head, row| self.steps.since_start(head, row));
        let mut weighed = vec![T::zero(); rows * width];
        scale_heads(&mut weighed, self.dy, width, &factors, heads);
        let mut shares = vec![T::zero(); rows * heads];
        dot_heads(&mut shares, &weighed, &reached);
        for (index, share) in shares.iter().enumerate() {
            self.d_sums[index % heads * rows + index / heads] += WithDType::to_f64(*share);
        }
        let d_c = MatrixMut::new(&mut d_xbc[width + state..], row);
        product_into(
            d_c,
            Beta::One,
            Dims::new(rows, state, width),
            Matrix::new(&weighed, width, 1),
            Matrix::new(before, state, 1),
            Threads::One,
        );
    }

    /// Adds the gradient of the factor exp(c_Q) between the states before and after the chunk.
    pub(super) fn through_both(&mut self, before: &[T], after: &[T]) {
        let (heads, rows) = (self.scan.heads, self.steps.rows);
        let mut shares = vec![T::zero(); heads];
        dot_heads(&mut shares, before, after);
        for (head, share) in shares.iter().enumerate() {
            self.d_sums[head * rows + rows - 1] += WithDType::to_f64(self.steps.total(head) * *share);
        }
    }

    /// Adds the gradients through the terms L_ij G_ij X_j of y, within the chunk.
    pub(super) fn within(&mut self, d_xbc: &mut [T]) {
        let (scan, rows) = (self.scan, self.steps.rows);
        let (width, head_dim, state, row) = (scan.width(), scan.head_dim, scan.state, scan.row());
        let (_, b, c) = scan.xbc(self.first);
        let square = || vec![T::zero(); rows * rows];
        let (mut overlap, mut d_overlap) = (square(), square());
        let (mut weights, mut d_weights) = (square(), square());
        product_into(
            MatrixMut::new(&mut overlap, rows),
            Beta::Zero,
            Dims::new(rows, rows, state),
            Matrix::new(c, row, 1),
            Matrix::new(b, 1, row),
            Threads::One,
        );
        for head in 0..scan.heads {
            let channels = head * head_dim;
            let (dy, scaled) = (&self.dy[channels..], &self.scaled[channels..]);
            let square = MatrixMut::new(&mut d_weights[..], rows);
            product_into(
                square,
                Beta::Zero,
                Dims::new(rows, rows, head_dim),
                Matrix::new(dy, width, 1),
                Matrix::new(scaled, 1, width),
                Threads::One,
            );
            overlap_gradient(
                &mut weights,
                &d_weights,
                &overlap,
                &mut d_overlap,
                self.steps.high(head),
                self.steps.low(head),
                &mut self.d_sums[head * rows..(head + 1) * rows],
            );
            let d_scaled = MatrixMut::new(&mut self.d_scaled[channels..], width);
            product_into(
                d_scaled,
                Beta::One,
                Dims::new(rows, head_dim, rows),
                Matrix::new(&weights, 1, rows),
                Matrix::new(dy, width, 1),
                Threads::One,
            );
        }
        let d_c = MatrixMut::new(&mut d_xbc[width + state..], row);
        product_into(
            d_c,
            Beta::One,
            Dims::new(rows, state, rows),
            Matrix::new(&d_overlap, rows, 1),
            Matrix::new(b, row, 1),
            Threads::One,
        );
        let d_b = MatrixMut::new(&mut d_xbc[width..], row);
        product_into(
            d_b,
            Beta::One,
            Dims::new(rows, state, rows),
            Matrix::new(&d_overlap, 1, rows),
            Matrix::new(c, row, 1),
            Threads::One,
        );
    }

    /// Turns dX and dc into dx, d dt and the gradients of the parameters.
    pub(super) fn finish(self, d_xbc: &mut [T], d_dt: &mut [T]) -> Partial {
        let (scan, steps, rows) = (self.scan, self.steps, self.steps.rows);
        let (heads, head_dim, row) = (scan.heads, scan.head_dim, scan.row());
        let (x, _, _) = scan.xbc(self.first);
        let mut partial = Partial {
            a: vec![0.0; heads],
            d: vec![0.0; heads],
            dt_bias: vec![0.0; heads],
        };
        for head in 0..heads {
            let mut d_decay = 0.0; // d(ΔA)
            for index in (0..rows).rev() {
                let channels = (index * heads + head) * head_dim..(index * heads + head + 1) * head_dim;
                let at = index * row + head * head_dim..index * row + (head + 1) * head_dim;
                let (d_scaled, dy) = (&self.d_scaled[channels.clone()], &self.dy[channels]);
                let delta = steps.delta(head)[index];
                let (d_delta, d_skip) =
                    input_gradient(&mut d_xbc[at.clone()], &x[at], d_scaled, dy, delta, scan.d[head]);
                d_decay += self.d_sums[head * rows + index];
                partial.a[head] += d_decay * WithDType::to_f64(delta);
                partial.d[head] += WithDType::to_f64(d_skip);
                let raw = scan.dt[(self.first + index) * heads + head] + scan.dt_bias[head];
                let d_raw = (T::of(d_decay * scan.a[head]) + d_delta) * raw.sigmoid();
                partial.dt_bias[head] += WithDType::to_f64(d_raw);
                d_dt[index * heads + head] = d_raw;
            }
        }
        partial
    }
}

/// out (q, H) = Σ over a head's elements of a · b, both (q, H, ·).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn dot_heads<T: Real>(out: &mut [T], a: &[T], b: &[T]) {
    let len = a.len() / out.len();
    for ((out, a), b) in out.iter_mut().zip(a.chunks_exact(len)).zip(b.chunks_exact(len)) {
        *out = dot(a, b);
    }
}

/// The gradients of one head within a chunk, with `weights` (q, q) = G∘L.
///
/// `d_overlap` += dW∘L. The terms dW∘G∘L below the diagonal are added to `d_sums` of their row and
/// subtracted from `d_sums` of their column.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn overlap_gradient<T: Real>(
    weights: &mut [T],
    d_weights: &[T],
    overlap: &[T],
    d_overlap: &mut [T],
    high: &[T],
    low: &[T],
    d_sums: &mut [f64],
) {
    let rows = high.len();
    let mut columns = vec![T::zero(); rows];
    for i in 0..rows {
        let seen = i * rows..i * rows + i + 1;
        let (weights, unseen) = weights[i * rows..(i + 1) * rows].split_at_mut(i + 1);
        let (d_weights, overlap) = (&d_weights[seen.clone()], &overlap[seen.clone()]);
        let d_overlap = &mut d_overlap[seen];
        for j in 0..=i {
            let decay = ((high[i] - high[j]) + (low[i] - low[j])).fast_exp();
            weights[j] = overlap[j] * decay;
            d_overlap[j] += d_weights[j] * decay;
        }
        unseen.fill(T::zero());
        for ((column, weight), d_weight) in columns[..i].iter_mut().zip(&*weights).zip(d_weights) {
            *column += *weight * *d_weight;
        }
        d_sums[i] += WithDType::to_f64(dot(&weights[..i], &d_weights[..i]));
    }
    for (d_sum, column) in d_sums.iter_mut().zip(columns) {
        *d_sum -= WithDType::to_f64(column);
    }
}

/// dx = Δ dX + d dy for one position of one head; returns dX·x and dy·x.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn input_gradient<T: Real>(dx: &mut [T], x: &[T], d_scaled: &[T], dy: &[T], delta: T, d: T) -> (T, T) {
    for ((dx, d_scaled), dy) in dx.iter_mut().zip(d_scaled).zip(dy) {
        *dx = delta * *d_scaled + d * *dy;
    }
    (dot(d_scaled, x), dot(dy, x))
}
