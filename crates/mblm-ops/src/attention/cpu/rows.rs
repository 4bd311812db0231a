//! Rows of tensors and heads, read in place: a slice of a cache or packed projection is not copied.

use std::marker::PhantomData;

use candle_core::{Layout, Result, Storage, Tensor};
use parking_lot::RwLockReadGuard;

use crate::cpu::Real;

/// Sequences of a group: a vector register of 16 `f32`.
pub(super) const GROUP: usize = 16;

/// One number of each sequence of a group.
pub(super) type Lanes<T> = [T; GROUP];

/// `tensor` itself if its last dimension is contiguous, else a contiguous copy.
pub(super) fn with_unit_stride(tensor: &Tensor) -> Result<Tensor> {
    match tensor.stride().last() {
        Some(1) => Ok(tensor.clone()),
        _ => tensor.contiguous(),
    }
}

/// A CPU tensor of three dimensions, the last one contiguous.
pub(super) struct Strided<'a, T> {
    storage: RwLockReadGuard<'a, Storage>,
    layout: Layout,
    marker: PhantomData<T>,
}

impl<'a, T: Real> Strided<'a, T> {
    pub(super) fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self {
            layout: layout.clone(),
            storage,
            marker: PhantomData,
        })
    }

    /// The rows of the tensor. Fails if it is not on the CPU or not of type `T`.
    pub(super) fn rows(&self) -> Result<Rows<'_, T>> {
        let Storage::Cpu(storage) = &*self.storage else {
            candle_core::bail!("attention: expected a tensor on the CPU");
        };
        let (dims, stride) = (self.layout.dims(), self.layout.stride());
        let ([n, _, _], [sequence, row, 1]) = (dims, stride) else {
            candle_core::bail!("attention: expected rows in three dimensions, found {dims:?} with strides {stride:?}");
        };
        Ok(Rows {
            data: &storage.as_slice::<T>()?[self.layout.start_offset()..],
            // one sequence serves all
            sequence: if *n == 1 { 0 } else { *sequence },
            row: *row,
        })
    }
}

/// Rows (n, t) of channels.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    data: &'a [T],
    sequence: usize,
    row: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Rows of a contiguous (n, t, width).
    pub(super) fn contiguous(data: &'a [T], t: usize, width: usize) -> Self {
        Self {
            data,
            sequence: t * width,
            row: width,
        }
    }

    /// The rows of `sequence`, from channel `channel` on.
    #[inline(always)]
    pub(super) fn run(self, sequence: usize, channel: usize) -> Run<'a, T> {
        Run {
            data: &self.data[sequence * self.sequence + channel..],
            stride: self.row,
        }
    }
}

/// Rows of one head of one sequence: row j begins at element `j · stride` of `data`.
#[derive(Clone, Copy)]
pub(super) struct Run<'a, T> {
    pub(super) data: &'a [T],
    pub(super) stride: usize,
}

impl<'a, T: Real> Run<'a, T> {
    /// No rows.
    pub(super) const EMPTY: Self = Self { data: &[], stride: 0 };

    /// The first `len` channels of row `index`.
    #[inline(always)]
    pub(super) fn row(self, index: usize, len: usize) -> &'a [T] {
        &self.data[index * self.stride..][..len]
    }

    /// The rows from `index` on.
    #[inline(always)]
    pub(super) fn from(self, index: usize) -> Self {
        Self {
            data: &self.data[index * self.stride..],
            stride: self.stride,
        }
    }
}

/// Elements per step of the loops below.
pub(super) const LANES: usize = 8;

/// `out[j] = x · row j`.
#[inline(always)]
pub(super) fn dots<T: Real>(out: &mut [T], x: &[T], rows: Run<T>) {
    crate::cpu::dots(out, x, rows.data, rows.stride);
}

/// `out += Σ_j weights[j·stride] · row j`, for `count` rows.
#[inline(always)]
pub(super) fn combine<T: Real>(out: &mut [T], (weights, stride): (&[T], usize), rows: Run<T>, count: usize) {
    let len = out.len();
    let (wide, rest) = out.as_chunks_mut::<{ 4 * LANES }>();
    let whole = 4 * LANES * wide.len();
    for (c, out) in wide.iter_mut().enumerate() {
        *out = combined(*out, (weights, stride), rows, 4 * LANES * c, count);
    }
    let (narrow, rest) = rest.as_chunks_mut::<LANES>();
    for (c, out) in narrow.iter_mut().enumerate() {
        *out = combined(*out, (weights, stride), rows, whole + LANES * c, count);
    }
    let whole = len - rest.len();
    for (c, out) in rest.iter_mut().enumerate() {
        [*out] = combined([*out], (weights, stride), rows, whole + c, count);
    }
}

/// `out + Σ_j weights[j·stride] · row j`, for `L` channels from `channel` on.
#[inline(always)]
fn combined<T: Real, const L: usize>(
    mut out: [T; L],
    (weights, stride): (&[T], usize),
    rows: Run<T>,
    channel: usize,
    count: usize,
) -> [T; L] {
    for j in 0..count {
        let weight = weights[j * stride];
        let row = &rows.data[j * rows.stride + channel..][..L];
        for lane in 0..L {
            out[lane] += weight * row[lane];
        }
    }
    out
}

/// The greatest element, ignoring NaN; -∞ if there is none.
#[inline(always)]
pub(super) fn maximum<T: Real>(a: &[T]) -> T {
    let mut lanes = [T::neg_infinity(); LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for lane in 0..LANES {
            lanes[lane] = if a[lane] > lanes[lane] { a[lane] } else { lanes[lane] };
        }
    }
    let mut greatest = T::neg_infinity();
    for lane in lanes {
        greatest = if lane > greatest { lane } else { greatest };
    }
    for a in rest {
        greatest = if *a > greatest { *a } else { greatest };
    }
    greatest
}
