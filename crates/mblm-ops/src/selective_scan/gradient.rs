//! The backward pass, segment by segment from the last to the first.
//!
//! States are recomputed from the saved border, then the recurrence runs in reverse.
//!
//! ```text
//! g_t = dy_t ⊙ silu(z_t)                          dz_t = dy_t ⊙ (h_t C_t + D ⊙ u_t) ⊙ silu'(z_t)
//! dh_t = exp(Δ_{t+1} A) ⊙ dh_{t+1} + g_t ⊗ C_t    dC_t = Σ_channels g_t h_t        dB_t = Σ_channels Δ_t u_t dh_t
//! E = dh_t ⊙ h_{t-1} ⊙ exp(Δ_t A)                 dA = Σ_t Δ_t E                   dΔ_t = Σ_N A ⊙ E + u_t Σ_N dh_t B_t
//! du_t = Δ_t Σ_N dh_t B_t + D g_t                 dD = Σ_t g_t u_t                 d delta_t = dΔ_t σ(delta_t)
//! ```

use std::ops::Range;

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::cpu::{LANES, Lanes, SEGMENT, Scan, Slices};
use super::{Gradients, Inputs, Saved};
use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_map, zeros};

pub(super) fn backward<T: Real>(
    inputs: &Inputs,
    saved: &Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    a_log: &mut GradBuffer,
    d: &mut GradBuffer,
) -> Result<Gradients> {
    let slices = Slices::<T>::new(inputs)?;
    let scan = Scan::new(inputs, &slices)?;
    check_saved(&scan, saved)?;
    let borders = saved.borders.iter().map(Slice::<T>::new).collect::<Result<Vec<_>>>()?;
    let d_last = d_last.map(Slice::<T>::new).transpose()?;
    let dys = Slice::<T>::new(dy)?;
    let pass = Backward {
        scan: &scan,
        dy: &dys,
        borders: borders.iter().map(|borders| &**borders).collect(),
        d_last: d_last.as_deref(),
    };
    let results = par_map(scan.tasks(), scan.parallel, |_, task| pass.block(task));
    let d_initial = inputs.initial.map(|initial| {
        let states = if scan.initial_is_shared {
            sum_states(&scan, &results, |result| &result.d_initial)
        } else {
            scan.states(&results, |result| &result.d_initial)
        };
        from_vec(states, initial.dims())
    });
    let d_a = sum_states(&scan, &results, |result| &result.d_a);
    a_log.add(&(from_vec(d_a, inputs.a_log.dims())? * inputs.a_log.exp()?.neg()?)?)?;
    d.add(&from_vec(sum_skips(&scan, &results), scan.channels)?)?;
    let rows = |of: fn(&Block<T>) -> &[Lanes<T>]| from_vec(scan.rows(&results, of), inputs.u.dims());
    Ok(Gradients {
        d_u: rows(|result| &result.d_u)?,
        d_delta: rows(|result| &result.d_delta)?,
        d_z: rows(|result| &result.d_z)?,
        d_b: from_vec(sum_blocks(&scan, &results, |result| &result.d_b), inputs.b.dims())?,
        d_c: from_vec(sum_blocks(&scan, &results, |result| &result.d_c), inputs.c.dims())?,
        d_initial: d_initial.transpose()?,
    })
}

fn check_saved<T: Real>(scan: &Scan<T>, saved: &Saved) -> Result<()> {
    let tasks = if scan.borders() == 0 { 0 } else { scan.tasks().len() };
    let fits = |(task, states): (usize, &Tensor)| {
        states.dims() == [scan.place(task).0.len(), scan.borders(), scan.state, LANES]
    };
    if saved.borders.len() != tasks || !saved.borders.iter().enumerate().all(fits) {
        candle_core::bail!(
            "selective_scan: the saved values belong to another scan; pass the values that forward \
             returned"
        );
    }
    Ok(())
}

/// The results of a task, cut to its channels.
///
/// Gradients by row (positions of its sequences, LANES), by row and state entry (positions, N), of
/// parameters summed over its positions, and of the initial states (sequences or 1, N, LANES).
struct Block<T> {
    d_u: Vec<Lanes<T>>,
    d_delta: Vec<Lanes<T>>,
    d_z: Vec<Lanes<T>>,
    d_b: Vec<T>,
    d_c: Vec<T>,
    d_a: Vec<Lanes<T>>,
    d_d: Lanes<T>,
    d_initial: Vec<Lanes<T>>,
}

impl<T: Real> Block<T> {
    fn zeros(sequences: usize, positions: usize, state: usize, initial_states: usize) -> Self {
        let rows = || vec![[T::zero(); LANES]; sequences * positions];
        let entries = || zeros(sequences * positions * state);
        let zeros = [T::zero(); LANES];
        Self {
            d_u: rows(),
            d_delta: rows(),
            d_z: rows(),
            d_b: entries(),
            d_c: entries(),
            d_a: vec![zeros; state],
            d_d: zeros,
            d_initial: vec![zeros; initial_states * state],
        }
    }
}

/// The inputs of the backward pass, shared by all tasks.
struct Backward<'a, T> {
    scan: &'a Scan<'a, T>,
    dy: &'a [T],
    borders: Vec<&'a [T]>,
    d_last: Option<&'a [T]>,
}

impl<T: Real> Backward<'_, T> {
    fn block(&self, task: usize) -> Block<T> {
        let scan = self.scan;
        let (sequences, block) = scan.place(task);
        let (positions, state) = (scan.positions, scan.state);
        let initial_states = if scan.initial_is_shared { 1 } else { sequences.len() };
        let mut result = Block::zeros(sequences.len(), positions, state, initial_states);
        let mut history = History::zeros(state);
        for (within, sequence) in sequences.enumerate() {
            let mut d_h = match self.d_last {
                Some(d_last) => scan.load_state(d_last, sequence, block),
                None => vec![[T::zero(); LANES]; state],
            };
            for (index, segment) in scan.segments().enumerate().rev() {
                let start = match index.checked_sub(1) {
                    Some(border) => self.border(task, within, border).to_vec(),
                    None => scan.load_initial(sequence, block),
                };
                let rows = sequence * positions + segment.start..sequence * positions + segment.end;
                let own = within * positions + segment.start..within * positions + segment.end;
                self.segment(rows, block, own, &start, &mut d_h, &mut history, &mut result);
            }
            let first = if scan.initial_is_shared { 0 } else { within * state };
            let d_initial = &mut result.d_initial[first..first + state];
            add_assign(d_initial.as_flattened_mut(), d_h.as_flattened());
        }
        result
    }

    /// The saved state at a border of a task's sequence.
    fn border(&self, task: usize, within: usize, border: usize) -> &[Lanes<T>] {
        let (states, _) = self.borders[task].as_chunks::<LANES>();
        let first = (within * self.scan.borders() + border) * self.scan.state;
        &states[first..first + self.scan.state]
    }

    /// Computes one segment: rows `rows` of the inputs, rows `own` of the task's results.
    ///
    /// On entry `d_h` is the gradient of the state after the segment, on return of the state before
    /// it.
    fn segment(
        &self,
        rows: Range<usize>,
        block: usize,
        own: Range<usize>,
        start: &[Lanes<T>],
        d_h: &mut [Lanes<T>],
        history: &mut History<T>,
        result: &mut Block<T>,
    ) {
        let (scan, state) = (self.scan, self.scan.state);
        let load = |from| scan.load_rows(from, rows.clone(), block);
        let raw = load(scan.delta);
        let (u, z, dy) = (load(scan.u), load(scan.z), load(self.dy));
        let entries = rows.start * state..rows.end * state;
        let (b, c) = (&scan.b[entries.clone()], &scan.c[entries]);
        let (a, d) = (scan.a(block), &scan.d[block]);
        recompute(start, history, &raw, &u, a, b, c, d);
        let d_z = &mut result.d_z[own.clone()];
        gate(d_z, history, &z, &dy);
        let mut d_a = vec![[T::zero(); LANES]; state];
        let entries = own.start * state..own.end * state;
        reverse(
            d_h,
            history,
            (&u, a, d),
            (b, c),
            (&mut result.d_u[own.clone()], &mut result.d_delta[own.clone()]),
            (&mut result.d_b[entries.clone()], &mut result.d_c[entries]),
            (&mut d_a, &mut result.d_d),
        );
        through_softplus(&mut result.d_delta[own], &raw);
        add_assign(result.d_a.as_flattened_mut(), d_a.as_flattened());
    }
}

/// The recomputed inner values of a segment.
struct History<T> {
    /// h before the segment and after each of its positions, (SEGMENT + 1, N, LANES).
    h: Vec<Lanes<T>>,
    /// exp(ΔA), (SEGMENT, N, LANES).
    decay: Vec<Lanes<T>>,
    /// Δ, (SEGMENT, LANES).
    delta: Vec<Lanes<T>>,
    /// The output before the gate, later its gradient.
    y: Vec<Lanes<T>>,
}

impl<T: Real> History<T> {
    fn zeros(state: usize) -> Self {
        let rows = |rows: usize| vec![[T::zero(); LANES]; rows];
        Self {
            h: rows((SEGMENT + 1) * state),
            decay: rows(SEGMENT * state),
            delta: rows(SEGMENT),
            y: rows(SEGMENT),
        }
    }
}

/// Fills `history` from the state before the segment.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn recompute<T: Real>(
    start: &[Lanes<T>],
    history: &mut History<T>,
    raw: &[Lanes<T>],
    u: &[Lanes<T>],
    a: &[Lanes<T>],
    b: &[T],
    c: &[T],
    d: &Lanes<T>,
) {
    let state = start.len();
    history.h[..state].copy_from_slice(start);
    for (row, (raw, u)) in raw.iter().zip(u).enumerate() {
        let (b, c) = (&b[row * state..(row + 1) * state], &c[row * state..(row + 1) * state]);
        let (earlier, later) = history.h.split_at_mut((row + 1) * state);
        let earlier = &earlier[row * state..];
        let decay = &mut history.decay[row * state..(row + 1) * state];
        let (mut delta, mut drive, mut out) = ([T::zero(); LANES], [T::zero(); LANES], [T::zero(); LANES]);
        for lane in 0..LANES {
            delta[lane] = raw[lane].softplus();
            drive[lane] = delta[lane] * u[lane];
            out[lane] = d[lane] * u[lane];
        }
        let states = earlier.iter().zip(&mut later[..state]).zip(decay);
        for ((((before, after), decay), a), (b, c)) in states.zip(a).zip(b.iter().zip(c)) {
            for lane in 0..LANES {
                decay[lane] = (delta[lane] * a[lane]).fast_exp();
                after[lane] = decay[lane] * before[lane] + drive[lane] * *b;
                out[lane] += after[lane] * *c;
            }
        }
        history.delta[row] = delta;
        history.y[row] = out;
    }
}

/// Sets d_z to dy · y · silu'(z), and `history.y` to dy · silu(z).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn gate<T: Real>(d_z: &mut [Lanes<T>], history: &mut History<T>, z: &[Lanes<T>], dy: &[Lanes<T>]) {
    for (((d_z, y), z), dy) in d_z.iter_mut().zip(&mut history.y).zip(z).zip(dy) {
        for lane in 0..LANES {
            let sigmoid = z[lane].sigmoid();
            d_z[lane] = dy[lane] * y[lane] * sigmoid * (T::one() + z[lane] * (T::one() - sigmoid));
            y[lane] = dy[lane] * z[lane] * sigmoid;
        }
    }
}

/// Runs the recurrence in reverse; `d_delta` gets the gradient of Δ.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn reverse<T: Real>(
    d_h: &mut [Lanes<T>],
    history: &History<T>,
    (u, a, d): (&[Lanes<T>], &[Lanes<T>], &Lanes<T>),
    (b, c): (&[T], &[T]),
    (d_u, d_delta): (&mut [Lanes<T>], &mut [Lanes<T>]),
    (d_b, d_c): (&mut [T], &mut [T]),
    (d_a, d_d): (&mut [Lanes<T>], &mut Lanes<T>),
) {
    let state = a.len();
    for row in (0..u.len()).rev() {
        let (delta, g, u) = (&history.delta[row], &history.y[row], &u[row]);
        let (mut drive, mut d_drive, mut d_step) = ([T::zero(); LANES], [T::zero(); LANES], [T::zero(); LANES]);
        for lane in 0..LANES {
            drive[lane] = delta[lane] * u[lane];
        }
        for entry in 0..state {
            let index = row * state + entry;
            let (before, after) = (&history.h[index], &history.h[index + state]);
            let (decay, a) = (&history.decay[index], &a[entry]);
            let (d_h, d_a) = (&mut d_h[entry], &mut d_a[entry]);
            let (mut to_b, mut to_c) = ([T::zero(); LANES], [T::zero(); LANES]);
            for lane in 0..LANES {
                let gradient = d_h[lane] + g[lane] * c[index];
                to_c[lane] = g[lane] * after[lane];
                to_b[lane] = gradient * drive[lane];
                d_drive[lane] += gradient * b[index];
                let carried = gradient * decay[lane];
                let through_decay = carried * before[lane];
                d_step[lane] += through_decay * a[lane];
                d_a[lane] += through_decay * delta[lane];
                d_h[lane] = carried;
            }
            d_b[index] = sum_lanes(&mut to_b);
            d_c[index] = sum_lanes(&mut to_c);
        }
        for lane in 0..LANES {
            d_u[row][lane] = d_drive[lane] * delta[lane] + d[lane] * g[lane];
            d_delta[row][lane] = d_step[lane] + d_drive[lane] * u[lane];
            d_d[lane] += g[lane] * u[lane];
        }
    }
}

/// The sum of the lanes, added in halves, so that all but the last few additions are vector ones.
#[inline(always)]
fn sum_lanes<T: Real>(lanes: &mut Lanes<T>) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes[0]
}

/// Turns the gradient of Δ into the gradient of the softplus' argument.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn through_softplus<T: Real>(d_delta: &mut [Lanes<T>], raw: &[Lanes<T>]) {
    for (d_delta, raw) in d_delta.iter_mut().zip(raw) {
        for lane in 0..LANES {
            d_delta[lane] *= raw[lane].sigmoid();
        }
    }
}

/// Sums state gradients of the tasks (N, LANES) over the groups, as (d_i, N).
fn sum_states<T: Real>(scan: &Scan<T>, results: &[Block<T>], of: impl Fn(&Block<T>) -> &[Lanes<T>]) -> Vec<T> {
    let mut sums = vec![T::zero(); scan.channels * scan.state];
    for (task, result) in results.iter().enumerate() {
        let block = scan.place(task).1;
        let channels = sums.chunks_exact_mut(scan.state).skip(scan.first(block));
        for (lane, entries) in channels.take(LANES).enumerate() {
            for (sum, lanes) in entries.iter_mut().zip(of(result)) {
                *sum += lanes[lane];
            }
        }
    }
    sums
}

/// Sums the gradient of D over the groups.
fn sum_skips<T: Real>(scan: &Scan<T>, results: &[Block<T>]) -> Vec<T> {
    let mut sums = vec![T::zero(); scan.channels];
    for (task, result) in results.iter().enumerate() {
        let first = scan.first(scan.place(task).1);
        add_assign(&mut sums[first..], &result.d_d);
    }
    sums
}

/// Sums tensors (positions of its sequences, N) of the tasks over the blocks, as (n, t, N).
fn sum_blocks<T: Real>(scan: &Scan<T>, results: &[Block<T>], of: impl Fn(&Block<T>) -> &[T] + Sync + Send) -> Vec<T> {
    let mut sums = zeros(scan.sequences * scan.positions * scan.state);
    par_chunks(&mut sums, scan.group * scan.positions * scan.state, |group, sums| {
        for result in &results[group * scan.blocks..(group + 1) * scan.blocks] {
            add_assign(sums, of(result));
        }
    });
    sums
}
