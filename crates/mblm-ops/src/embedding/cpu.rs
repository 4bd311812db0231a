//! The CPU kernels: the forward pass copies rows, the backward pass sums rows by id.
//!
//! The backward pass sorts the positions by id, so that each row of the table is the sum of a list
//! of rows. Rows are summed in parallel, each list in the order of its positions.

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use crate::GradBuffer;
use crate::cpu::{Real, Slice, add_assign, from_vec, par_chunks, par_new_rows};

/// Columns per task, so that several tasks share a row that most ids select.
const COLUMNS: usize = 128;

/// Terms that are summed before they join the total, which keeps long sums precise.
const TERMS: usize = 1024;

pub(super) fn forward<T: Real>(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (_, d) = table.dims2()?;
    let (selected, rows) = (Slice::<u32>::new(ids)?, Slice::<T>::new(table)?);
    let (selected, rows): (&[u32], &[T]) = (&selected, &rows);
    let [y] = par_new_rows(selected.len(), [d], &mut [], |range, [y], _| {
        for (id, y) in selected[range].iter().zip(y.chunks_exact_mut(d.max(1))) {
            let id = *id as usize;
            y.copy_from_slice(&rows[id * d..(id + 1) * d]);
        }
    });
    let shape: Vec<usize> = ids.dims().iter().copied().chain([d]).collect();
    from_vec(y, shape)
}

pub(super) fn backward<T: Real>(
    ids: &Tensor,
    dy: &Tensor,
    d_table: &mut GradBuffer,
    frozen: Option<u32>,
) -> Result<()> {
    let (vocabulary, d) = d_table.tensor().dims2()?;
    let (ids, dys) = (Slice::<u32>::new(ids)?, Slice::<T>::new(dy)?);
    let dys: &[T] = &dys;
    let (starts, order) = sort(&ids, vocabulary);
    d_table.update_on_cpu(|d_table: &mut [T]| {
        if d == 0 {
            return;
        }
        par_chunks(d_table, d, |row, d_row| {
            let positions = &order[starts[row]..starts[row + 1]];
            if positions.is_empty() || frozen.is_some_and(|frozen| frozen as usize == row) {
                return;
            }
            par_chunks(d_row, COLUMNS, |block, to| {
                add_rows(to, positions, dys, d, block * COLUMNS)
            });
        });
    })
}

/// Sorts positions by id: `order[starts[id]..starts[id + 1]]` has the positions of `id`, in order.
///
/// It is a counting sort.
fn sort(ids: &[u32], vocabulary: usize) -> (Vec<usize>, Vec<usize>) {
    let mut starts = vec![0; vocabulary + 1];
    for id in ids {
        starts[*id as usize + 1] += 1;
    }
    for id in 0..vocabulary {
        starts[id + 1] += starts[id];
    }
    let mut next = starts.clone();
    let mut order = vec![0; ids.len()];
    for (position, id) in ids.iter().enumerate() {
        let slot = &mut next[*id as usize];
        order[*slot] = position;
        *slot += 1;
    }
    (starts, order)
}

/// Adds rows of `dy` to a table row, for the columns from `column` on.
///
/// `to` are these columns of the table row; `positions` are the rows of `dy`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn add_rows<T: Real>(to: &mut [T], positions: &[usize], dy: &[T], d: usize, column: usize) {
    let mut sum = [T::zero(); COLUMNS];
    let sum = &mut sum[..to.len()];
    for terms in positions.chunks(TERMS) {
        sum.fill(T::zero());
        for position in terms {
            let start = position * d + column;
            for (sum, dy) in sum.iter_mut().zip(&dy[start..start + to.len()]) {
                *sum += *dy;
            }
        }
        add_assign(to, sum);
    }
}
