//! The CPU kernels: row by row, vectorized over the channels; taps are transposed to (k, c).

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_reduce, par_zeroed};

/// Rows per task.
const ROWS: usize = 32;

/// Rows whose parameter gradients one task sums.
const REDUCED_ROWS: usize = 256;

/// Sequences per task of the sum of a shared tail's gradient.
const SEQUENCES: usize = 64;

/// The inputs, and e = [tail | x] by rows.
struct Convolution<'a, T> {
    positions: usize,
    channels: usize,
    kernel: usize,
    x: &'a [T],
    taps: Vec<T>,
    bias: &'a [T],
    tail: Option<&'a [T]>,
    tail_is_shared: bool,
}

impl<T: Real> Convolution<'_, T> {
    fn tap(&self, tap: usize) -> &[T] {
        &self.taps[tap * self.channels..(tap + 1) * self.channels]
    }

    /// Row `row` of e in `sequence`; `None` if it is zero.
    fn extended(&self, sequence: usize, row: usize) -> Option<&[T]> {
        let before = self.kernel - 1;
        let (rows, index) = if row >= before {
            (self.x, sequence * self.positions + row - before)
        } else {
            let first = if self.tail_is_shared { 0 } else { sequence * before };
            (self.tail?, first + row)
        };
        Some(&rows[index * self.channels..(index + 1) * self.channels])
    }

    /// Computes p of row `index`, counted over all sequences.
    fn preactivation(&self, index: usize, out: &mut [T]) {
        let (sequence, position) = (index / self.positions, index % self.positions);
        out.copy_from_slice(self.bias);
        for tap in 0..self.kernel {
            if let Some(row) = self.extended(sequence, position + tap) {
                add_product(out, self.tap(tap), row);
            }
        }
    }

    /// Adds the gradient of row `row` of e, given the gradients of p and of the new tail.
    fn add_extended_gradient(&self, sequence: usize, row: usize, dp: &[T], d_new_tail: Option<&[T]>, out: &mut [T]) {
        let c = self.channels;
        for tap in 0..self.kernel.min(row + 1) {
            let position = row - tap;
            if position < self.positions {
                let index = sequence * self.positions + position;
                add_product(out, self.tap(tap), &dp[index * c..(index + 1) * c]);
            }
        }
        if let Some(d_new_tail) = d_new_tail
            && row >= self.positions
        {
            let index = sequence * (self.kernel - 1) + row - self.positions;
            add_assign(out, &d_new_tail[index * c..(index + 1) * c]);
        }
    }

    /// Adds the gradients of the taps (k, c), then of the bias (c), to `out`.
    fn add_parameter_gradients(&self, index: usize, dp: &[T], out: &mut [T]) {
        let (sequence, position) = (index / self.positions, index % self.positions);
        for (tap, out) in out.chunks_exact_mut(self.channels).enumerate() {
            if tap == self.kernel {
                add_assign(out, dp);
            } else if let Some(row) = self.extended(sequence, position + tap) {
                add_product(out, dp, row);
            }
        }
    }
}

/// Slices of the inputs, kept alive while a [`Convolution`] borrows them.
struct Inputs<'a, T> {
    x: Slice<'a, T>,
    bias: Slice<'a, T>,
    tail: Option<Slice<'a, T>>,
}

impl<'a, T: Real> Inputs<'a, T> {
    fn new(x: &'a Tensor, bias: &'a Tensor, tail: Option<&'a Tensor>) -> Result<Self> {
        Ok(Self {
            x: Slice::new(x)?,
            bias: Slice::new(bias)?,
            tail: tail.map(Slice::new).transpose()?,
        })
    }

    fn convolution(&self, x: &Tensor, weight: &Tensor, tail: Option<&Tensor>) -> Result<Convolution<'_, T>> {
        let (_, positions, channels) = x.dims3()?;
        let kernel = weight.dim(2)?;
        let taps = weight.reshape((channels, kernel))?.t()?; // (c, 1, k) -> (k, c)
        Ok(Convolution {
            positions,
            channels,
            kernel,
            x: &self.x,
            taps: taps.flatten_all()?.to_vec1()?,
            bias: &self.bias,
            tail: self.tail.as_deref(),
            tail_is_shared: tail.is_some_and(|tail| tail.dims()[0] == 1),
        })
    }
}

pub(super) fn forward<T: Real>(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    tail: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (n, t, c) = x.dims3()?;
    let inputs = Inputs::<T>::new(x, bias, tail)?;
    let convolution = inputs.convolution(x, weight, tail)?;
    let y = par_zeroed(n * t * c, ROWS * c, |task, rows| {
        for (offset, row) in rows.chunks_exact_mut(c).enumerate() {
            convolution.preactivation(task * ROWS + offset, row);
            silu(row);
        }
    });
    let before = convolution.kernel - 1;
    let mut new_tail = vec![T::zero(); n * before * c];
    for (index, out) in new_tail.chunks_exact_mut(c).enumerate() {
        if let Some(row) = convolution.extended(index / before, t + index % before) {
            out.copy_from_slice(row);
        }
    }
    Ok((from_vec(y, (n, t, c))?, from_vec(new_tail, (n, before, c))?))
}

pub(super) fn backward<T: Real>(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    tail: Option<&Tensor>,
    dy: &Tensor,
    d_new_tail: Option<&Tensor>,
    d_weight: &mut GradBuffer,
    d_bias: &mut GradBuffer,
) -> Result<(Tensor, Option<Tensor>)> {
    let (n, t, c) = x.dims3()?;
    let inputs = Inputs::<T>::new(x, bias, tail)?;
    let convolution = inputs.convolution(x, weight, tail)?;
    let (kernel, before) = (convolution.kernel, convolution.kernel - 1);
    let dys: &[T] = &Slice::new(dy)?;
    let d_new_tail = d_new_tail.map(Slice::<T>::new).transpose()?;
    let d_new_tail = d_new_tail.as_deref();

    let dp = par_zeroed(n * t * c, ROWS * c, |task, rows| {
        let dys = &dys[task * ROWS * c..];
        for (offset, (row, dy)) in rows.chunks_exact_mut(c).zip(dys.chunks_exact(c)).enumerate() {
            convolution.preactivation(task * ROWS + offset, row);
            silu_gradient(row, dy);
        }
    });
    let dx = par_zeroed(n * t * c, ROWS * c, |task, rows| {
        for (offset, row) in rows.chunks_exact_mut(c).enumerate() {
            let index = task * ROWS + offset;
            convolution.add_extended_gradient(index / t, before + index % t, &dp, d_new_tail, row);
        }
    });
    let d_tail = tail.map(|tail| {
        let mut d_tail = vec![T::zero(); tail.elem_count()];
        let add = |sequence, out: &mut [T]| {
            for (row, out) in out.chunks_exact_mut(c).enumerate() {
                convolution.add_extended_gradient(sequence, row, &dp, d_new_tail, out);
            }
        };
        if convolution.tail_is_shared {
            par_reduce(n, SEQUENCES, &mut d_tail, |range, sum| range.for_each(|s| add(s, sum)));
        } else {
            par_chunks(&mut d_tail, before * c, add);
        }
        from_vec(d_tail, tail.dims())
    });
    let mut d_parameters = vec![T::zero(); (kernel + 1) * c];
    par_reduce(n * t, REDUCED_ROWS, &mut d_parameters, |range, sum| {
        for index in range {
            convolution.add_parameter_gradients(index, &dp[index * c..(index + 1) * c], sum);
        }
    });
    d_bias.add(&from_vec(d_parameters.split_off(kernel * c), c)?)?;
    d_weight.add(&from_vec(d_parameters, (kernel, c))?.t()?)?;
    Ok((from_vec(dx, (n, t, c))?, d_tail.transpose()?))
}

/// `to[i] += a[i] · b[i]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn add_product<T: Real>(to: &mut [T], a: &[T], b: &[T]) {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to += *a * *b;
    }
}

/// Replaces p by p·σ(p).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn silu<T: Real>(p: &mut [T]) {
    for p in p {
        *p *= p.sigmoid();
    }
}

/// Replaces p by dy·σ(p)·(1 + p·(1 − σ(p))).
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn silu_gradient<T: Real>(p: &mut [T], dy: &[T]) {
    for (p, dy) in p.iter_mut().zip(dy) {
        let sigmoid = p.sigmoid();
        *p = *dy * sigmoid * (T::one() + *p * (T::one() - sigmoid));
    }
}
