//! Cuts a result C (m, n) into blocks, one per thread.
//!
//! Each block is a product on one thread: threads that share a block wait for each other between
//! steps along k. The sums of a block run in an order that depends on k alone. The `gemm` crate
//! uses other orders only for results of one row or column, which are not cut, and for results of
//! at most 64 rows and columns, which are smaller than any block of a cut result.

use std::ops::Range;

use crate::matrix::Dims;

/// The rule by which C is cut.
pub(crate) struct Partition {
    /// Rows of a block are a multiple of `mr`, columns a multiple of `nr`.
    ///
    /// Other cuts would leave more partial micro-tiles.
    pub(crate) mr: usize,
    pub(crate) nr: usize,
    /// The cost of packing a number of B, relative to packing or reading a number of A.
    pub(crate) b_cost: usize,
}

impl Partition {
    /// The numbers of parts into which the rows and the columns of C are cut.
    ///
    /// If C is large enough, there is one block per thread. The largest block is as small as
    /// possible; among equal cuts, the one that repeats the least reading and packing wins.
    pub(crate) fn counts(&self, Dims { m, n, k }: Dims, threads: usize) -> (usize, usize) {
        /// Fewest multiplications for which several threads share a product.
        const MIN_WORK: usize = 1 << 20;
        /// The cost of writing a number, in multiplications.
        const WRITTEN: usize = 16;
        /// Fewest rows, or columns, of a block.
        const MIN_SIZE: usize = 128;
        if m == 1 || n == 1 || m * n * k.max(WRITTEN) < MIN_WORK {
            return (1, 1);
        }
        let parts = |count: usize, size: usize| count.min(size / MIN_SIZE).max(1);
        let largest = |(down, across): (usize, usize)| m.div_ceil(down) * n.div_ceil(across);
        (1..=threads)
            .map(|down| (parts(down, m), parts(threads / down, n)))
            .min_by_key(|counts| (largest(*counts), self.b_cost * counts.0 * n + counts.1 * m))
            .unwrap_or((1, 1))
    }
}

/// Part `index` of `count` of `0..size`; all but the last are multiples of `unit` long.
pub(crate) fn part(size: usize, unit: usize, index: usize, count: usize) -> Range<usize> {
    let units = size.div_ceil(unit);
    let start = |index: usize| (index * units / count * unit).min(size);
    start(index)..start(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (size, unit, count) in [(4096, 6, 2), (257, 16, 2), (1000, 16, 7), (5, 6, 1), (1, 16, 1)] {
            let mut end = 0;
            for index in 0..count {
                let part = part(size, unit, index, count);
                assert_eq!(part.start, end);
                assert!(!part.is_empty());
                end = part.end;
            }
            assert_eq!(end, size);
        }
    }

    #[test]
    fn blocks_are_large_and_even() {
        let partition = Partition {
            mr: 6,
            nr: 16,
            b_cost: 8,
        };
        for (m, n, k, threads, counts) in [
            (4096, 256, 1024, 2, (2, 1)),
            (2048, 512, 256, 2, (1, 2)),
            (256, 1024, 4096, 2, (1, 2)),
            (1024, 1024, 1024, 16, (2, 8)),
            (200, 200, 4096, 16, (1, 1)),
            (8, 8, 8, 16, (1, 1)),
        ] {
            assert_eq!(partition.counts(Dims::new(m, n, k), threads), counts, "({m}, {n}, {k})");
        }
    }
}
