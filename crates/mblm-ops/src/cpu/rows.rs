//! Parallel loops over the rows of tables: each piece of rows fills its part of the results and adds to a sum.

use std::ops::Range;

use rayon::prelude::*;

use super::{Real, add_assign, par_chunks};

/// Elements of one table in a piece of work: far more work than handing it to a thread, and little enough for the
/// cache that a second look at it is free.
const PIECE: usize = 32_768;

/// Columns of the sum that one task adds up.
const COLUMNS: usize = 256;

/// Calls `work(range, parts, partial)` for consecutive ranges covering `0..rows`, in parallel.
///
/// `results` are tables with their row widths, of which `work` gets the rows of its range; the widest decides how many
/// rows make a piece. An empty table gives empty parts, but its width counts. What `work` adds to the zeroed `partial`
/// is added to `sum`, in the order of the ranges.
pub fn par_rows<T: Real, const N: usize>(
    rows: usize,
    results: [(&mut [T], usize); N],
    sum: &mut [T],
    work: impl Fn(Range<usize>, [&mut [T]; N], &mut [T]) + Sync + Send,
) {
    if rows == 0 {
        return;
    }
    let widest = results.iter().map(|(_, width)| *width).max().unwrap_or(1);
    let piece = (PIECE / widest.max(1)).max(1);
    if rows <= piece {
        return work(0..rows, results.map(|(table, _)| table), sum);
    }
    let mut tables = results.map(|(table, width)| table.chunks_mut((piece * width).max(1)));
    let pieces: Vec<(Range<usize>, [&mut [T]; N])> = (0..rows)
        .step_by(piece)
        .map(|start| {
            let parts = tables.each_mut().map(|chunks| chunks.next().unwrap_or_default());
            (start..(start + piece).min(rows), parts)
        })
        .collect();
    let columns = sum.len();
    let partials: Vec<Vec<T>> = pieces
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once_with_its_part() {
        for rows in [0, 1, PIECE / 300, PIECE / 300 + 1, 1000] {
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
        }
    }
}
