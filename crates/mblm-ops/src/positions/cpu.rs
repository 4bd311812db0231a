//! The CPU kernels: the sum by pieces of rows, the gradient by pieces of the table.
//!
//! The gradient adds the sequences in order.

use candle_core::{Result, Tensor};

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks};

/// Elements per task.
const PIECE: usize = 16_384;

pub(super) fn forward<T: Real>(x: &Tensor, table: &Tensor, start: usize) -> Result<Tensor> {
    let (_, t, d) = x.dims3()?;
    let (xs, table) = (Slice::<T>::new(x)?, Slice::<T>::new(table)?);
    let rows = &table[start * d..(start + t) * d];
    let mut y = xs.to_vec();
    let per_piece = (PIECE / d.max(1)).max(1);
    par_chunks(&mut y, per_piece * d.max(1), |piece, y| {
        for (row, y) in y.chunks_exact_mut(d).enumerate() {
            let position = (piece * per_piece + row) % t;
            add_assign(y, &rows[position * d..][..d]);
        }
    });
    from_vec(y, x.dims())
}

pub(super) fn backward<T: Real>(dy: &Tensor, start: usize, d_table: &mut GradBuffer) -> Result<()> {
    let (_, t, d) = dy.dims3()?;
    let dys = Slice::<T>::new(dy)?;
    let dys: &[T] = &dys;
    d_table.update_on_cpu(|sum: &mut [T]| {
        par_chunks(&mut sum[start * d..(start + t) * d], PIECE, |piece, sum| {
            for sequence in dys.chunks_exact((t * d).max(1)) {
                add_assign(sum, &sequence[piece * PIECE..][..sum.len()]);
            }
        });
    })
}
