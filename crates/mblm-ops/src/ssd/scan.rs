//! A scan cut into tasks: slices of the inputs, time steps and decays of a chunk, its products.
//!
//! A task is one chunk of one sequence with all its heads. Products with B and C then span the
//! heads, C Bᵀ is computed once for all heads, and the gradients of B and C, sums over the heads,
//! stay within a task. Decays are exponentials of differences of running sums, which are never
//! positive. Each sum is kept as a pair of numbers, so that the difference of near positions does
//! not inherit the rounding error of a large sum.

use candle_core::{Result, WithDType};
use multiversion::multiversion;

use super::{Inputs, Ssd};
use crate::cpu::{Beta, Dims, Matrix, MatrixMut, Threads, product_into};
use crate::cpu::{Real, Slice, axpy, par_map};

/// Most positions for which the recurrence is faster than the chunked form.
pub(super) const MAX_RECURRENT: usize = 4;

/// Slices of the inputs, kept alive while a [`Scan`] borrows them.
pub(super) struct Slices<'a, T> {
    pub(super) xbc: Slice<'a, T>,
    pub(super) dt: Slice<'a, T>,
    a_log: Slice<'a, T>,
    d: Slice<'a, T>,
    dt_bias: Slice<'a, T>,
    initial: Option<Slice<'a, T>>,
}

impl<'a, T: Real> Slices<'a, T> {
    pub(super) fn new(inputs: &Inputs<'a>) -> Result<Self> {
        Ok(Self {
            xbc: Slice::new(inputs.xbc)?,
            dt: Slice::new(inputs.dt)?,
            a_log: Slice::new(inputs.a_log)?,
            d: Slice::new(inputs.d)?,
            dt_bias: Slice::new(inputs.dt_bias)?,
            initial: inputs.initial.map(Slice::new).transpose()?,
        })
    }
}

/// The inputs, and how they are cut into chunks; `task` = sequence · pieces + piece.
pub(super) struct Scan<'a, T> {
    pub(super) sequences: usize,
    pub(super) positions: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) state: usize,
    chunk: usize,
    /// The number of chunks of a sequence.
    pub(super) pieces: usize,
    pub(super) xbc: &'a [T],
    pub(super) dt: &'a [T],
    pub(super) dt_bias: &'a [T],
    /// A = -exp(a_log), by head.
    pub(super) a: Vec<f64>,
    pub(super) d: &'a [T],
    initial: Option<&'a [T]>,
    pub(super) initial_is_shared: bool,
    /// The shared initial state as (N, H·P): transposed once, because its products read this layout
    /// fastest.
    shared_transposed: Option<Vec<T>>,
}

impl<'a, T: Real> Scan<'a, T> {
    pub(super) fn new(s: &Ssd, inputs: &Inputs, slices: &'a Slices<'_, T>) -> Result<Self> {
        let (sequences, positions, _) = inputs.xbc.dims3()?;
        let shared = inputs.initial.filter(|initial| initial.dims()[0] == 1);
        let shared_transposed = match shared {
            // (1, H, P, N) -> (N, H·P)
            Some(initial) if positions > MAX_RECURRENT => {
                let state = initial.reshape((s.heads * s.head_dim, s.state))?.t()?;
                Some(state.flatten_all()?.to_vec1()?)
            }
            _ => None,
        };
        Ok(Self {
            sequences,
            positions,
            heads: s.heads,
            head_dim: s.head_dim,
            state: s.state,
            chunk: s.chunk,
            pieces: positions.div_ceil(s.chunk),
            xbc: &slices.xbc,
            dt: &slices.dt,
            dt_bias: &slices.dt_bias,
            a: slices
                .a_log
                .iter()
                .map(|a_log| -mblm_gemm::Real::fast_exp(WithDType::to_f64(*a_log)))
                .collect(),
            d: &slices.d,
            initial: slices.initial.as_deref(),
            initial_is_shared: shared.is_some(),
            shared_transposed,
        })
    }

    /// H·P, the channels of x and y.
    pub(super) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The number of elements of one sequence's state.
    pub(super) fn size(&self) -> usize {
        self.width() * self.state
    }

    /// The number of elements of a row of xbc.
    pub(super) fn row(&self) -> usize {
        self.width() + 2 * self.state
    }

    /// The number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.sequences * self.pieces
    }

    /// A task's first row among the rows of all sequences, and its number of rows.
    pub(super) fn rows(&self, task: usize) -> (usize, usize) {
        let (sequence, first) = (task / self.pieces, task % self.pieces * self.chunk);
        (
            sequence * self.positions + first,
            self.chunk.min(self.positions - first),
        )
    }

    /// The numbers of elements of each task's rows in a tensor of `channels` channels.
    pub(super) fn lengths(&self, channels: usize) -> impl Iterator<Item = usize> {
        (0..self.tasks()).map(move |task| self.rows(task).1 * channels)
    }

    pub(super) fn initial(&self, sequence: usize) -> Option<&'a [T]> {
        let first = if self.initial_is_shared {
            0
        } else {
            sequence * self.size()
        };
        self.initial.map(|initial| &initial[first..first + self.size()])
    }

    /// The state before a task's first row; `None` if it is zero.
    pub(super) fn before<'b>(&self, task: usize, borders: &'b [T]) -> Option<&'b [T]>
    where
        'a: 'b,
    {
        let (sequence, piece) = (task / self.pieces, task % self.pieces);
        if piece == 0 {
            return self.initial(sequence);
        }
        let first = (sequence * (self.pieces - 1) + piece - 1) * self.size();
        Some(&borders[first..first + self.size()])
    }

    /// The transpose (N, H·P) of the state `before` a task's first row.
    pub(super) fn transposed<'b>(&'b self, task: usize, before: &'b [T]) -> Matrix<'b, T> {
        match &self.shared_transposed {
            Some(transposed) if task.is_multiple_of(self.pieces) => Matrix::new(transposed, self.width(), 1),
            _ => Matrix::new(before, 1, self.state),
        }
    }

    /// x (q, H·P), B (q, N) and C (q, N) of the rows from `first` on; rows are [`Scan::row`] apart.
    pub(super) fn xbc(&self, first: usize) -> (&'a [T], &'a [T], &'a [T]) {
        let x = &self.xbc[first * self.row()..];
        (x, &x[self.width()..], &x[self.width() + self.state..])
    }

    /// Δ and its running sums for every task.
    pub(super) fn steps(&self) -> Vec<Steps<T>> {
        par_map((0..self.tasks()).collect(), true, |_, task| {
            let (first, rows) = self.rows(task);
            Steps::new(self, first, rows)
        })
    }

    /// Δ x (q, H·P).
    pub(super) fn scaled(&self, first: usize, steps: &Steps<T>) -> Vec<T> {
        let mut scaled = vec![T::zero(); steps.rows * self.width()];
        let factors = steps.by_row(|head, row| steps.delta(head)[row]);
        scale_heads(&mut scaled, self.xbc(first).0, self.row(), &factors, self.heads);
        scaled
    }

    /// Writes Σ_j exp(c_Q - c_j) Δ_j x_j ⊗ B_j of a task to `out` (H·P, N).
    pub(super) fn chunk_state(&self, first: usize, steps: &Steps<T>, out: &mut [T]) {
        let (width, state, rows) = (self.width(), self.state, steps.rows);
        let (x, b, _) = self.xbc(first);
        let factors = steps.by_row(|head, row| steps.to_end(head, row) * steps.delta(head)[row]);
        let mut weighed = vec![T::zero(); rows * width];
        scale_heads(&mut weighed, x, self.row(), &factors, self.heads);
        product_into(
            MatrixMut::new(out, state),
            Beta::Zero,
            Dims::new(width, state, rows),
            Matrix::new(&weighed, 1, width),
            Matrix::new(b, self.row(), 1),
            Threads::One,
        );
    }

    /// Writes y of a task, given the state before it, to `y` (q, H·P), which must be zero.
    pub(super) fn outputs(&self, task: usize, steps: &Steps<T>, before: Option<&[T]>, y: &mut [T]) {
        let (width, state, rows, row) = (self.width(), self.state, steps.rows, self.row());
        let first = self.rows(task).0;
        let (x, b, c) = self.xbc(first);
        if let Some(before) = before {
            product_into(
                MatrixMut::new(y, width),
                Beta::Zero,
                Dims::new(rows, width, state),
                Matrix::new(c, row, 1),
                self.transposed(task, before),
                Threads::One,
            );
            scale_heads_in_place(y, &steps.by_row(|head, row| steps.since_start(head, row)));
        }
        let scaled = self.scaled(first, steps);
        let mut overlap = vec![T::zero(); rows * rows]; // C Bᵀ
        product_into(
            MatrixMut::new(&mut overlap, rows),
            Beta::Zero,
            Dims::new(rows, rows, state),
            Matrix::new(c, row, 1),
            Matrix::new(b, 1, row),
            Threads::One,
        );
        let mut weights = vec![T::zero(); rows * rows];
        for head in 0..self.heads {
            let channels = head * self.head_dim;
            decayed(&mut weights, &overlap, steps.high(head), steps.low(head));
            product_into(
                MatrixMut::new(&mut y[channels..], width),
                Beta::One,
                Dims::new(rows, self.head_dim, rows),
                Matrix::new(&weights, rows, 1),
                Matrix::new(&scaled[channels..], width, 1),
                Threads::One,
            );
        }
        for (index, y) in y.chunks_exact_mut(width).enumerate() {
            for (head, y) in y.chunks_exact_mut(self.head_dim).enumerate() {
                axpy(y, self.d[head], &x[index * row + head * self.head_dim..]);
            }
        }
    }
}

/// Δ of a task's rows, and c, its running sums of ΔA, each (H, q); c = high + low.
pub(super) struct Steps<T> {
    pub(super) rows: usize,
    delta: Vec<T>,
    high: Vec<T>,
    low: Vec<T>,
}

impl<T: Real> Steps<T> {
    fn new(scan: &Scan<T>, first: usize, rows: usize) -> Self {
        let heads = scan.heads;
        let mut steps = Self {
            rows,
            delta: Vec::with_capacity(heads * rows),
            high: Vec::with_capacity(heads * rows),
            low: Vec::with_capacity(heads * rows),
        };
        for head in 0..heads {
            let mut sum = 0.0;
            for row in first..first + rows {
                let delta = (scan.dt[row * heads + head] + scan.dt_bias[head]).softplus();
                sum += WithDType::to_f64(delta) * scan.a[head];
                let high = T::of(sum);
                steps.delta.push(delta);
                steps.high.push(high);
                steps.low.push(T::of(sum - WithDType::to_f64(high)));
            }
        }
        steps
    }

    /// Δ of a head's rows.
    pub(super) fn delta(&self, head: usize) -> &[T] {
        &self.delta[head * self.rows..(head + 1) * self.rows]
    }

    pub(super) fn high(&self, head: usize) -> &[T] {
        &self.high[head * self.rows..(head + 1) * self.rows]
    }

    pub(super) fn low(&self, head: usize) -> &[T] {
        &self.low[head * self.rows..(head + 1) * self.rows]
    }

    /// exp(c_row): the factor by which the state before the chunk has decayed.
    pub(super) fn since_start(&self, head: usize, row: usize) -> T {
        (self.high(head)[row] + self.low(head)[row]).fast_exp()
    }

    /// exp(c_Q - c_row): the factor by which the row has decayed at the end of the chunk.
    pub(super) fn to_end(&self, head: usize, row: usize) -> T {
        let (high, low, last) = (self.high(head), self.low(head), self.rows - 1);
        ((high[last] - high[row]) + (low[last] - low[row])).fast_exp()
    }

    /// exp(c_Q).
    pub(super) fn total(&self, head: usize) -> T {
        self.since_start(head, self.rows - 1)
    }

    /// `factor(head, row)` as (q, H).
    pub(super) fn by_row(&self, factor: impl Fn(usize, usize) -> T) -> Vec<T> {
        let heads = self.delta.len() / self.rows;
        (0..self.rows * heads)
            .map(|index| factor(index % heads, index / heads))
            .collect()
    }

    /// to (H·P, N) += exp(c_Q) · from, head by head.
    pub(super) fn carry(&self, to: &mut [T], from: &[T]) {
        let heads = self.delta.len() / self.rows;
        let size = to.len() / heads;
        for (head, (to, from)) in to.chunks_exact_mut(size).zip(from.chunks_exact(size)).enumerate() {
            add_scaled(to, self.total(head), from);
        }
    }
}

/// out (q, H·P) = factors (q, H) · from; rows of `from` are `stride` apart.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
pub(super) fn scale_heads<T: Real>(out: &mut [T], from: &[T], stride: usize, factors: &[T], heads: usize) {
    let head_dim = out.len() / factors.len();
    for (index, (out, factor)) in out.chunks_exact_mut(head_dim).zip(factors).enumerate() {
        let first = index / heads * stride + index % heads * head_dim;
        for (out, from) in out.iter_mut().zip(&from[first..first + head_dim]) {
            *out = *factor * *from;
        }
    }
}

/// out (q, H·P) = factors (q, H) · out.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
pub(super) fn scale_heads_in_place<T: Real>(out: &mut [T], factors: &[T]) {
    let head_dim = out.len() / factors.len();
    for (out, factor) in out.chunks_exact_mut(head_dim).zip(factors) {
        for out in out {
            *out = *factor * *out;
        }
    }
}

/// `to[i] += factor · from[i]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn add_scaled<T: Real>(to: &mut [T], factor: T, from: &[T]) {
    axpy(to, factor, from);
}

/// out (q, q) = exp(c_i - c_j) · overlap where j ≤ i, else 0, with c = high + low.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn decayed<T: Real>(out: &mut [T], overlap: &[T], high: &[T], low: &[T]) {
    let rows = high.len();
    for (i, (out, overlap)) in out.chunks_exact_mut(rows).zip(overlap.chunks_exact(rows)).enumerate() {
        let (seen, unseen) = out.split_at_mut(i + 1);
        for (((out, overlap), high_j), low_j) in seen.iter_mut().zip(overlap).zip(high).zip(low) {
            *out = *overlap * ((high[i] - *high_j) + (low[i] - *low_j)).fast_exp();
        }
        unseen.fill(T::zero());
    }
}
