//! The CPU kernels, one row at a time.
//!
//! The forward pass writes the gated vector u to the result and scales it there. The backward pass
//! keeps u and σ(z) in its results until the row's sum is known.

use std::ops::Range;

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::Saved;
use crate::GradBuffer;
use crate::cpu::norm::add_gain;
use crate::cpu::{Real, Slice, dot, dot3, from_vec, par_new_rows};

pub(super) fn forward<T: Real>(y: &Tensor, z: &Tensor, gain: &Tensor) -> Result<(Tensor, Saved)> {
    let d = gain.dims1()?;
    let rows = y.elem_count() / d;
    let (ys, zs, gains) = (Slice::<T>::new(y)?, Slice::<T>::new(z)?, Slice::<T>::new(gain)?);
    let (ys, zs, gains): (&[T], &[T], &[T]) = (&ys, &zs, &gains);
    let [out, scale] = par_new_rows(rows, [d, 1], &mut [], |rows, parts, _| {
        forward_rows(ys, zs, gains, rows, parts);
    });
    let scale = Some(from_vec(scale, rows)?);
    Ok((from_vec(out, y.dims())?, Saved { scale }))
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn forward_rows<T: Real>(y: &[T], z: &[T], gain: &[T], rows: Range<usize>, [out, scale]: [&mut [T]; 2]) {
    let d = gain.len();
    for ((row, out), scale) in rows.zip(out.chunks_exact_mut(d)).zip(scale) {
        let (y, z) = (&y[row * d..(row + 1) * d], &z[row * d..(row + 1) * d]);
        for ((out, y), z) in out.iter_mut().zip(y).zip(z) {
            *out = *y * *z * z.sigmoid();
        }
        let f = T::one() / (dot(out, out) / T::of(d as f64) + T::of(1e-5)).sqrt();
        *scale = f;
        for (out, gain) in out.iter_mut().zip(gain) {
            *out = *out * f * *gain;
        }
    }
}

pub(super) fn backward<T: Real>(
    y: &Tensor,
    z: &Tensor,
    gain: &Tensor,
    scale: &Tensor,
    d_out: &Tensor,
    d_gain: &mut GradBuffer,
) -> Result<(Tensor, Tensor)> {
    let d = gain.dims1()?;
    let rows = y.elem_count() / d;
    let (ys, zs, gains) = (Slice::<T>::new(y)?, Slice::<T>::new(z)?, Slice::<T>::new(gain)?);
    let (scales, d_outs) = (Slice::<T>::new(scale)?, Slice::<T>::new(d_out)?);
    let input = Input {
        y: &ys,
        z: &zs,
        gain: &gains,
        scale: &scales,
        d_out: &d_outs,
    };
    let [d_y, d_z] = d_gain.update_on_cpu(|d_gain| {
        par_new_rows(rows, [d, d], d_gain, |rows, parts, d_gain| {
            backward_rows(&input, rows, parts, d_gain);
        })
    })?;
    Ok((from_vec(d_y, y.dims())?, from_vec(d_z, y.dims())?))
}

/// The inputs of the backward pass, shared by all pieces.
struct Input<'a, T> {
    y: &'a [T],
    z: &'a [T],
    gain: &'a [T],
    scale: &'a [T],
    d_out: &'a [T],
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn backward_rows<T: Real>(input: &Input<'_, T>, rows: Range<usize>, [d_y, d_z]: [&mut [T]; 2], d_gain: &mut [T]) {
    let d = input.gain.len();
    let (gain, d_gain) = (&input.gain[..d], &mut d_gain[..d]);
    for ((row, d_y), d_z) in rows.zip(d_y.chunks_exact_mut(d)).zip(d_z.chunks_exact_mut(d)) {
        let span = row * d..(row + 1) * d;
        let (y, z, d_out) = (&input.y[span.clone()], &input.z[span.clone()], &input.d_out[span]);
        let f = input.scale[row];
        for j in 0..d {
            d_z[j] = z[j].sigmoid();
            d_y[j] = y[j] * z[j] * d_z[j];
        }
        let product = dot3(gain, d_out, d_y);
        add_gain(d_gain, d_out, d_y, f);
        let c = f * f * product / T::of(d as f64);
        for j in 0..d {
            let sigmoid = d_z[j];
            let silu = z[j] * sigmoid;
            let d_u = f * (gain[j] * d_out[j] - c * d_y[j]);
            d_y[j] = d_u * silu;
            d_z[j] = d_u * y[j] * (sigmoid + silu * (T::one() - sigmoid));
        }
    }
}
