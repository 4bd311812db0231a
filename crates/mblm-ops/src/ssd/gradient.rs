//! The backward pass of the chunked form, derived by hand.
//!
//! With X_j = Δ_j x_j, L_ij = exp(c_i - c_j) for j ≤ i and G = C Bᵀ, both of a chunk, S the state before the chunk and dE
//! the gradient of the state after it:
//!
//! ```text
//! dS = Σ_i exp(c_i) dy_i ⊗ C_i + exp(c_Q) dE              from the last chunk to the first: dS is dE of the chunk before
//! dX = (G∘L)ᵀ dy + exp(c_Q - c_j) dE B_j
//! dG = Σ_heads (dy Xᵀ)∘L
//! dC = dG B + Σ_heads exp(c_i) Sᵀ dy_i                    dB = dGᵀ C + Σ_heads exp(c_Q - c_j) dEᵀ X_j
//! dc: every factor exp(c_a - c_b) that multiplies a term adds the term's share of the objective to dc_a and takes it from
//!     dc_b; terms with a = b cancel and are left out
//! d(ΔA)_s = Σ_{i≥s} dc_i                                  dΔ = A d(ΔA) + dX·x,  dA = Σ Δ d(ΔA),  dx = Δ dX + D dy
//! ```
//!
//! Only the states between chunks are saved; the rest is computed again.

use candle_core::{Result, Tensor, WithDType};
use multiversion::multiversion;

use super::cpu::{Scan, Slices, Steps, scale_heads, scale_heads_in_place};
use super::{Gradients, Inputs, ParameterGradients, Saved, Ssd};
use crate::cpu::{Beta, Dims, Matrix, MatrixMut, Threads, product_into};
use crate::cpu::{Real, Slice, add_assign, dot, from_vec, par_chunks, par_map, par_reduce, split, zeros};

/// Sequences whose gradient of a shared initial state one task sums.
const SEQUENCES: usize = 16;

pub(super) fn backward<T: Real>(
    s: &Ssd,
    inputs: &Inputs,
    saved: &Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    grads: ParameterGradients,
) -> Result<Gradients> {
    let slices = Slices::<T>::new(inputs)?;
    let scan = Scan::new(s, inputs, &slices)?;
    let borders = saved.borders.as_ref().map(Slice::<T>::new).transpose()?;
    let borders: &[T] = borders.as_deref().unwrap_or_default();
    if borders.len() != scan.sequences * (scan.pieces - 1) * scan.size() {
        candle_core::bail!("ssd: what was saved is of another scan than these inputs; hand on what forward returned");
    }
    let d_last = d_last.map(Slice::<T>::new).transpose()?;
    let dys = Slice::<T>::new(dy)?;
    let pass = Backward {
        steps: scan.steps(),
        dy: &dys,
        borders,
        d_last: d_last.as_deref(),
        scan: &scan,
    };
    let d_borders = pass.border_gradients();
    let d_initial = inputs
        .initial
        .map(|initial| from_vec(pass.initial_gradient(&d_borders), initial.dims()));

    let mut d_xbc = zeros(scan.xbc.len());
    let mut d_dt = vec![T::zero(); scan.dt.len()];
    let rows = split(&mut d_xbc, scan.lengths(scan.row())).into_iter();
    let rows = rows.zip(split(&mut d_dt, scan.lengths(scan.heads))).collect();
    let partials = par_map(rows, true, |task, (d_xbc, d_dt): (&mut [T], &mut [T])| {
        pass.chunk(task, &d_borders, d_xbc, d_dt)
    });
    add_parameter_gradients::<T>(&scan.a, &partials, grads)?;
    Ok(Gradients {
        d_xbc: from_vec(d_xbc, inputs.xbc.dims())?,
        d_dt: from_vec(d_dt, inputs.dt.dims())?,
        d_initial: d_initial.transpose()?,
    })
}

/// Sums of one chunk, by head.
struct Partial {
    a: Vec<f64>,
    d: Vec<f64>,
    dt_bias: Vec<f64>,
}

fn add_parameter_gradients<T: Real>(a: &[f64], partials: &[Partial], grads: ParameterGradients) -> Result<()> {
    let sum = |of: fn(&Partial) -> &Vec<f64>| {
        let mut total = vec![0.0; a.len()];
        for partial in partials {
            add_assign(&mut total, of(partial));
        }
        total
    };
    let tensor = |sums: Vec<f64>| from_vec(sums.into_iter().map(T::of).collect(), a.len());
    // A = -exp(a_log) is its own derivative
    let d_a_log = sum(|partial| &partial.a).iter().zip(a).map(|(d, a)| d * a).collect();
    grads.a_log.add(&tensor(d_a_log)?)?;
    grads.d.add(&tensor(sum(|partial| &partial.d))?)?;
    grads.dt_bias.add(&tensor(sum(|partial| &partial.dt_bias))?)
}

/// What the tasks of a backward pass read.
struct Backward<'a, T> {
    scan: &'a Scan<'a, T>,
    steps: Vec<Steps<T>>,
    dy: &'a [T],
    borders: &'a [T],
    d_last: Option<&'a [T]>,
}

impl<T: Real> Backward<'_, T> {
    fn dy(&self, task: usize) -> &[T] {
        let (first, rows) = self.scan.rows(task);
        &self.dy[first * self.scan.width()..(first + rows) * self.scan.width()]
    }

    /// dE of a task: the gradient of the state after its last row; `None` where it is zero.
    fn after<'b>(&'b self, task: usize, d_borders: &'b [T]) -> Option<&'b [T]> {
        let (sequence, piece) = (task / self.scan.pieces, task % self.scan.pieces);
        let size = self.scan.size();
        let (states, index) = if piece + 1 == self.scan.pieces {
            (self.d_last?, sequence)
        } else {
            (d_borders, sequence * (self.scan.pieces - 1) + piece)
        };
        Some(&states[index * size..(index + 1) * size])
    }

    /// out (H·P, N) += Σ_i exp(c_i) dy_i ⊗ C_i of a task.
    fn add_state_gradient(&self, task: usize, out: &mut [T]) {
        let (scan, steps, dy) = (self.scan, &self.steps[task], self.dy(task));
        let (width, state) = (scan.width(), scan.state);
        let (_, _, c) = scan.xbc(scan.rows(task).0);
        let factors = steps.by_row(|head, row| steps.since_start(head, row));
        let mut weighed = vec![T::zero(); dy.len()];
        scale_heads(&mut weighed, dy, width, &factors, scan.heads);
        product_into(
            MatrixMut::new(out, state),
            Beta::One,
            Dims::new(width, state, steps.rows),
            Matrix::new(&weighed, 1, width),
            Matrix::new(c, scan.row(), 1),
            Threads::One,
        );
    }

    /// The gradients of the states between chunks, laid out like them.
    fn border_gradients(&self) -> Vec<T> {
        let (scan, size, inner) = (self.scan, self.scan.size(), self.scan.pieces - 1);
        let mut d_borders = vec![T::zero(); scan.sequences * inner * size];
        if inner == 0 {
            return d_borders;
        }
        par_chunks(&mut d_borders, size, |index, d_border| {
            let (sequence, piece) = (index / inner, index % inner + 1);
            self.add_state_gradient(sequence * scan.pieces + piece, d_border);
        });
        par_chunks(&mut d_borders, inner * size, |sequence, d_borders| {
            let mut after = self
                .d_last
                .map(|d_last| &d_last[sequence * size..(sequence + 1) * size]);
            for (piece, d_border) in d_borders.chunks_exact_mut(size).enumerate().rev() {
                if let Some(after) = after {
                    self.steps[sequence * scan.pieces + piece + 1].carry(d_border, after);
                }
                after = Some(d_border);
            }
        });
        d_borders
    }

    /// The gradient of the initial states, (n or 1, H, P, N).
    fn initial_gradient(&self, d_borders: &[T]) -> Vec<T> {
        let (scan, size) = (self.scan, self.scan.size());
        let add = |sequence: usize, out: &mut [T]| {
            let task = sequence * scan.pieces;
            self.add_state_gradient(task, out);
            if let Some(after) = self.after(task, d_borders) {
                self.steps[task].carry(out, after);
            }
        };
        if scan.initial_is_shared {
            let mut d_initial = vec![T::zero(); size];
            par_reduce(scan.sequences, SEQUENCES, &mut d_initial, |range, sum| {
                range.for_each(|sequence| add(sequence, sum));
            });
            d_initial
        } else {
            let mut d_initial = vec![T::zero(); scan.sequences * size];
            par_chunks(&mut d_initial, size, add);
            d_initial
        }
    }

    /// Everything of one chunk: `d_xbc` (q, H·P + 2N) and `d_dt` (q, H), both zeros before.
    fn chunk(&self, task: usize, d_borders: &[T], d_xbc: &mut [T], d_dt: &mut [T]) -> Partial {
        let scan = self.scan;
        let steps = &self.steps[task];
        let first = scan.rows(task).0;
        let (before, after) = (scan.before(task, self.borders), self.after(task, d_borders));
        let scaled = scan.scaled(first, steps);
        let mut gradients = Chunk {
            scan,
            steps,
            task,
            first,
            dy: self.dy(task),
            d_scaled: vec![T::zero(); scaled.len()],
            d_sums: vec![0.0; scan.heads * steps.rows],
            scaled,
        };
        if let Some(after) = after {
            gradients.through_state_after(after, d_xbc);
        }
        if let Some(before) = before {
            gradients.through_state_before(before, d_xbc);
        }
        if let (Some(before), Some(after)) = (before, after) {
            gradients.through_both(before, after);
        }
        gradients.within(d_xbc);
        gradients.finish(d_xbc, d_dt)
    }
}

/// The gradients of one chunk, while they add up.
struct Chunk<'a, T> {
    scan: &'a Scan<'a, T>,
    steps: &'a Steps<T>,
    task: usize,
    first: usize,
    /// (q, H·P).
    dy: &'a [T],
    /// X = Δ x, (q, H·P).
    scaled: Vec<T>,
    /// dX, (q, H·P).
    d_scaled: Vec<T>,
    /// dc, (H, q).
    d_sums: Vec<f64>,
}

impl<T: Real> Chunk<'_, T> {
    /// The terms exp(c_Q - c_j) X_j ⊗ B_j of the state after the chunk, whose gradient is `after`.
    fn through_state_after(&mut self, after: &[T], d_xbc: &mut [T]) {
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

    /// The terms exp(c_i) S C_i of y, with S = `before`.
    fn through_state_before(&mut self, before: &[T], d_xbc: &mut [T]) {
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

    /// The factor exp(c_Q) between the states before and after the chunk.
    fn through_both(&mut self, before: &[T], after: &[T]) {
        let (heads, rows) = (self.scan.heads, self.steps.rows);
        let mut shares = vec![T::zero(); heads];
        dot_heads(&mut shares, before, after);
        for (head, share) in shares.iter().enumerate() {
            self.d_sums[head * rows + rows - 1] += WithDType::to_f64(self.steps.total(head) * *share);
        }
    }

    /// The terms L_ij G_ij X_j of y, within the chunk.
    fn within(&mut self, d_xbc: &mut [T]) {
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

    /// From dX and dc to dx, d dt and the parameters.
    fn finish(self, d_xbc: &mut [T], d_dt: &mut [T]) -> Partial {
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

/// One head within a chunk: `weights` (q, q) = G∘L; `d_overlap` += dW∘L; the shares dW∘G∘L below the diagonal are added
/// to `d_sums` of their row and taken from that of their column.
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

/// dx = Δ dX + d dy of one position of one head; returns dX·x and dy·x.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn input_gradient<T: Real>(dx: &mut [T], x: &[T], d_scaled: &[T], dy: &[T], delta: T, d: T) -> (T, T) {
    for ((dx, d_scaled), dy) in dx.iter_mut().zip(d_scaled).zip(dy) {
        *dx = delta * *d_scaled + d * *dy;
    }
    (dot(d_scaled, x), dot(dy, x))
}
