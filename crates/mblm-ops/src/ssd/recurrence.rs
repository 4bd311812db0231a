//! The recurrence itself, for the few positions of a decoding step: one pass over the state each.

use multiversion::multiversion;

use super::scan::Scan;
use crate::cpu::{Real, dot, par_map, split};

/// State elements times positions below which waking other threads does not pay off.
const PARALLEL: usize = 1 << 16;

/// y (n, t, H·P) and the last states (n, H, P, N).
pub(super) fn forward<T: Real>(scan: &Scan<T>) -> (Vec<T>, Vec<T>) {
    let (heads, head_dim, positions) = (scan.heads, scan.head_dim, scan.positions);
    let head_size = head_dim * scan.state;
    let mut last = vec![T::zero(); scan.sequences * scan.size()];
    let parallel = last.len() * positions > PARALLEL;
    let states = split(&mut last, std::iter::repeat_n(head_size, scan.sequences * heads));
    let outputs: Vec<Vec<T>> = par_map(states, parallel, |index, state| {
        let (sequence, head) = (index / heads, index % heads);
        if let Some(initial) = scan.initial(sequence) {
            state.copy_from_slice(&initial[head * head_size..(head + 1) * head_size]);
        }
        let mut y = vec![T::zero(); positions * head_dim];
        for (position, y) in y.chunks_exact_mut(head_dim).enumerate() {
            let row = sequence * positions + position;
            let (x, b, c) = scan.xbc(row);
            let x = &x[head * head_dim..(head + 1) * head_dim];
            let delta = (scan.dt[row * heads + head] + scan.dt_bias[head]).softplus();
            let decay = (delta * T::of(scan.a[head])).fast_exp();
            step(
                state,
                y,
                x,
                &b[..scan.state],
                &c[..scan.state],
                delta,
                decay,
                scan.d[head],
            );
        }
        y
    });
    let mut y = Vec::with_capacity(scan.sequences * positions * scan.width());
    for sequence in outputs.chunks_exact(heads) {
        for position in 0..positions {
            for head in sequence {
                y.extend_from_slice(&head[position * head_dim..(position + 1) * head_dim]);
            }
        }
    }
    (y, last)
}

/// One position of one head: state (P, N) = decay · state + Δ x ⊗ B; y (P) = state · C + d x.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn step<T: Real>(state: &mut [T], y: &mut [T], x: &[T], b: &[T], c: &[T], delta: T, decay: T, d: T) {
    for ((state, y), x) in state.chunks_exact_mut(b.len()).zip(y).zip(x) {
        let drive = delta * *x;
        for (state, b) in state.iter_mut().zip(b) {
            *state = decay * *state + drive * *b;
        }
        *y = dot(state, c) + d * *x;
    }
}
