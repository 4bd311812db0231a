//! Parallel loops over table rows: each chunk fills its part of the results and adds to a sum.

use std::ops::Range;

use rayon::prelude::*;

use crate::parallel::{par_chunks, zeroed};
use crate::real::Real;
use crate::vector::add_assign;

/// Elements of one table in a chunk.
///
/// Large enough to outweigh the cost of a task, small enough to stay in the cache between two
/// passes.
const CHUNK: usize = 32_768;

/// Columns of the sum that one task adds.
const COLUMNS: usize = 256;

/// Calls `work(range, parts, partial)` for consecutive ranges covering `0..rows`, in parallel.
///
/// `results` are tables and their row widths; `work` gets the rows of its range. The widest table
/// sets the number of rows in a chunk. An empty table gives empty parts, but its width counts.
/// `work` adds to a zeroed `partial`; the partial sums are added to `sum` in the order of the
/// ranges.
pub fn par_rows<T: Real, const N: usize>(
    rows: usize,
    results: [(&mut [T], usize); N],
    sum: &mut [T],
    work: impl Fn(Range<usize>, [&mut [T]; N], &mut [T]) + Sync + Send,
) {
    in_chunks(rows, results, sum, work);
}

/// [`par_rows`] of tables that may be uninitialized.
fn in_chunks<U: Send, T: Real, const N: usize>(
    rows: usize,
    results: [(&mut [U], usize); N],
    sum: &mut [T],
    work: impl Fn(Range<usize>, [&mut [U]; N], &mut [T]) + Sync + Send,
) {
    if rows == 0 {
        return;
    }
    let widest = results.iter().map(|(_, width)| *width).max().unwrap_or(1);
    let chunk = (CHUNK / widest.max(1)).max(1);
    if rows <= chunk {
        return work(0..rows, results.map(|(table, _)| table), sum);
    }
    let mut tables = results.map(|(table, width)| table.chunks_mut((chunk * width).max(1)));
    let tasks: Vec<(Range<usize>, [&mut [U]; N])> = (0..rows)
        .step_by(chunk)
        .map(|start| {
            let parts = tables.each_mut().map(|chunks| chunks.next().unwrap_or_default());
            (start..(start + chunk).min(rows), parts)
        })
        .collect();
    let columns = sum.len();
    let partials: Vec<Vec<T>> = tasks
        .into_par_iter()
        .map(|(range, parts)| {
            let mut partial = vec![T::zero(); columns];
            work(range, parts, &mut partial);
            partial
        })
        .collect();
    par_chunks(sum, COLUMNS, |index, sum| {
        let start = index * COLUMNS;
        for partial in &partials {
            add_assign(sum, &partial[start..start + sum.len()]);
        }
    });
}

/// [`par_rows`] into new tables with rows of `widths`, zero before `work` fills them.
pub fn par_new_rows<T: Real, const N: usize>(
    rows: usize,
    widths: [usize; N],
    sum: &mut [T],
    work: impl Fn(Range<usize>, [&mut [T]; N], &mut [T]) + Sync + Send,
) -> [Vec<T>; N] {
    let mut tables = widths.map(|width| Vec::with_capacity(rows * width));
    let mut width = widths.into_iter();
    let new = tables.each_mut().map(|table| {
        let width = width.next().unwrap_or_default(); // both arrays have N elements
        (&mut table.spare_capacity_mut()[..rows * width], width)
    });
    in_chunks(rows, new, sum, |range, parts, sum| work(range, parts.map(zeroed), sum));
    for (table, width) in tables.iter_mut().zip(widths) {
        // SAFETY: the parts are the whole table, and each has been zeroed.
        unsafe { table.set_len(rows * width) };
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once_with_its_part() {
        for rows in [0, 1, CHUNK / 300, CHUNK / 300 + 1, 1000] {
            let (mut table, mut column, mut sum) = (vec![0f64; rows * 300], vec![0f64; rows], vec![0f64; 300]);
            par_rows(
                rows,
                [(&mut table, 300), (&mut column, 1), (&mut [], 0)],
                &mut sum,
                |range, [table, column, empty], sum| {
                    assert!(empty.is_empty());
                    assert_eq!(table.len(), 300 * column.len());
                    for (row, to) in range.zip(column) {
                        *to = row as f64;
                    }
                    for row in table.chunks_exact_mut(300) {
                        row.fill(1.0);
                        add_assign(sum, row);
                    }
                },
            );
            assert!(table.iter().all(|x| *x == 1.0));
            assert!(column.iter().enumerate().all(|(row, x)| *x == row as f64));
            assert!(sum.iter().all(|x| *x == rows as f64));
            let [new, numbers] = par_new_rows(rows, [300, 1], &mut [], |rows, [_, numbers], _| {
                for (row, to) in rows.zip(numbers) {
                    *to += row as f64;
                }
            });
            assert_eq!((new, numbers), (vec![0.0; rows * 300], column));
        }
    }
}
