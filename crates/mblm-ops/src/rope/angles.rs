//! Cosines and sines of rotary angles.
//!
//! angle(position, i) = position · 10000^(-2i/d), for the d/2 pairs i of a vector.
//!
//! Source: Su et al., RoFormer, arXiv 2104.09864, §3.2.2.

use crate::cpu::{Real, par_chunks};

/// The base of the wavelengths.
const BASE: f64 = 10_000.0;

/// Positions per task.
const ROWS: usize = 64;

/// A table of cosines and sines for consecutive positions.
pub(crate) struct Angles<T> {
    /// (rows, 2, d/2): the cosines of a position, then its sines.
    table: Vec<T>,
    half: usize,
}

impl<T: Real> Angles<T> {
    /// The table of positions `start..start + rows` for vectors of `d` channels; computed in `f64`.
    ///
    /// `d` is even.
    pub(crate) fn new(start: usize, rows: usize, d: usize) -> Self {
        let half = d / 2;
        let frequencies: Vec<f64> = (0..half).map(|i| BASE.powf(-2.0 * i as f64 / d as f64)).collect();
        let mut table = vec![T::zero(); rows * d];
        par_chunks(&mut table, ROWS * d.max(1), |chunk, table| {
            for (row, table) in table.chunks_exact_mut(d).enumerate() {
                let position = start as f64 + (chunk * ROWS + row) as f64;
                let (cosines, sines) = table.split_at_mut(half);
                for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(&frequencies) {
                    let (sin, cos) = (position * frequency).sin_cos();
                    (*cosine, *sine) = (T::of(cos), T::of(sin));
                }
            }
        });
        Self { table, half }
    }

    /// The cosines and the sines, d/2 each, of the position `row` after the first.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> (&[T], &[T]) {
        self.table[2 * self.half * row..][..2 * self.half].split_at(self.half)
    }

    /// The whole table, (rows, 2, d/2).
    pub(crate) fn into_table(self) -> Vec<T> {
        self.table
    }
}
