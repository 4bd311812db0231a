//! The backward pass of the chunked form, derived by hand.
//!
//! Let X_j = Δ_j x_j, L_ij = exp(c_i - c_j) for j ≤ i and G = C Bᵀ, both within a chunk, S the
//! state before the chunk and dE the gradient of the state after it:
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
//! Only the states between chunks are saved; everything else is recomputed.

use candle_core::{Result, Tensor};

use super::chunk_gradient::{Chunk, Partial};
use super::scan::{Scan, Slices, Steps, scale_heads};
use super::{Gradients, Inputs, ParameterGradients, Saved, Ssd};
use crate::cpu::{Beta, Dims, Matrix, MatrixMut, Threads, product_into};
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_map, par_reduce, split, zeros};

/// Sequences per task of the sum of a shared initial state's gradient.
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
        candle_core::bail!("ssd: the saved values belong to another scan; pass the values that forward returned");
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

/// The inputs of the backward pass, shared by all tasks.
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

    /// dE of a task: the gradient of the state after its last row; `None` if it is zero.
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

    /// The gradients of the states between chunks, in the layout of the states.
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

    /// Computes all gradients of one chunk.
    ///
    /// `d_xbc` (q, H·P + 2N) and `d_dt` (q, H) must be zero on entry.
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
