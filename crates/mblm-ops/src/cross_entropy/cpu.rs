//! The CPU kernels, one row at a time: maximum, exponentials in place, their sum, scaling in place.

use std::ops::Range;

use candle_core::{Result, Tensor, WithDType};
use multiversion::multiversion;

use crate::cpu::{Real, Slice, from_vec, par_new_rows, par_rows, sum};

/// Lanes of the maximum: enough to fill a vector register of 16 `f32`.
const LANES: usize = 16;

pub(super) fn losses<T: Real>(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (rows, vocabulary) = logits.dims2()?;
    let (xs, targets) = (Slice::<T>::new(logits)?, Slice::<u32>::new(targets)?);
    let (xs, targets): (&[T], &[u32]) = (&xs, &targets);
    let mut losses = vec![T::zero(); rows];
    // the empty table makes pieces as small as for results of `vocabulary` columns
    let results = [(&mut losses[..], 1), (&mut [], vocabulary)];
    par_rows(rows, results, &mut [], |rows, [losses, _], _| {
        let x = &xs[rows.start * vocabulary..rows.end * vocabulary];
        loss_rows(x, &targets[rows], vocabulary, losses);
    });
    from_vec(losses, rows)
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn loss_rows<T: Real>(x: &[T], targets: &[u32], vocabulary: usize, losses: &mut [T]) {
    let mut exponentials = vec![T::zero(); vocabulary];
    for ((x, target), loss) in x.chunks_exact(vocabulary).zip(targets).zip(losses) {
        let (largest, total) = exponentiate(x, &mut exponentials);
        *loss = (largest - x[*target as usize]) + total.ln();
    }
}

pub(super) fn loss_and_gradient<T: Real>(
    logits: &Tensor,
    targets: &[u32],
    weights: &[f32],
    scale: f64,
) -> Result<(f64, Tensor)> {
    let (rows, vocabulary) = logits.dims2()?;
    let xs = Slice::<T>::new(logits)?;
    let input = Input {
        x: &xs,
        targets,
        weights,
        scale,
    };
    let [losses, d_logits] = par_new_rows(rows, [1, vocabulary], &mut [], |rows, parts, _| {
        gradient_rows(&input, rows, vocabulary, parts);
    });
    let total = losses
        .iter()
        .zip(weights)
        .filter(|(_, weight)| **weight != 0.0)
        .map(|(loss, weight)| WithDType::to_f64(*loss) * f64::from(*weight))
        .sum();
    Ok((total, from_vec(d_logits, (rows, vocabulary))?))
}

/// The inputs, shared by all pieces of rows.
struct Input<'a, T> {
    x: &'a [T],
    targets: &'a [u32],
    weights: &'a [f32],
    scale: f64,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn gradient_rows<T: Real>(
    input: &Input<'_, T>,
    rows: Range<usize>,
    vocabulary: usize,
    [losses, d_logits]: [&mut [T]; 2],
) {
    for ((row, loss), d_logits) in rows.zip(losses).zip(d_logits.chunks_exact_mut(vocabulary)) {
        if input.weights[row] == 0.0 {
            continue; // the results are zeros already
        }
        let x = &input.x[row * vocabulary..(row + 1) * vocabulary];
        let target = input.targets[row] as usize;
        let (largest, total) = exponentiate(x, d_logits);
        *loss = (largest - x[target]) + total.ln();
        let weight = T::of(input.scale * f64::from(input.weights[row]));
        let factor = weight / total;
        for d in d_logits.iter_mut() {
            *d *= factor;
        }
        d_logits[target] -= weight;
    }
}

/// Writes e^(x − max x) to `to`; returns max x and the sum of the exponentials.
///
/// NaN makes the sum NaN.
#[inline(always)]
fn exponentiate<T: Real>(x: &[T], to: &mut [T]) -> (T, T) {
    let mut lanes = [x[0]; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    let mut largest = x[0];
    for x in lanes.iter().chain(rest) {
        largest = if *x > largest { *x } else { largest };
    }
    for (to, x) in to.iter_mut().zip(x) {
        *to = (*x - largest).fast_exp();
    }
    (largest, sum(to))
}
