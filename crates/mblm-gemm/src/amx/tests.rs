//! Compares the processor's tiles with the reference implementation.
//!
//! The tests of [`crate::bf16`] compare products in tiles with exact ones.

use super::*;
use crate::test_data::numbers;

/// The reference implementation, and the processor's tiles if it has them.
fn units() -> impl Iterator<Item = TileUnit> {
    [Some(TileUnit::portable()), TileUnit::of_processor()]
        .into_iter()
        .flatten()
}

/// Writes A (40, 32) · B (32, n) to C, whose rows are `row_stride` apart.
fn multiply_into(unit: TileUnit, c: &mut [f32], row_stride: usize, a: &[f32], b: &[f32], n: usize) {
    let (m, k) = (a.len() / 32, 32);
    assert!(row_stride >= n && c.len() >= m * row_stride);
    let c = MatrixPtr {
        data: c.as_mut_ptr(),
        row_stride,
    };
    let (a, b) = (Matrix::new(a, k, 1), Matrix::new(b, n, 1));
    // SAFETY: there are m rows, as long as n or longer.
    unsafe { multiply(unit, c, Beta::Zero, Dims::new(m, n, k), a, b) };
}

#[test]
fn nothing_between_rows_is_touched() {
    let (m, n, k, stride) = (40, 33, 32, 50);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    for unit in units() {
        let (mut c, mut whole) = (vec![f32::NAN; m * stride], vec![0.0; m * n]);
        multiply_into(unit, &mut c, stride, &a, &b, n);
        multiply_into(unit, &mut whole, n, &a, &b, n);
        for (c, whole) in c.chunks(stride).zip(whole.chunks(n)) {
            assert_eq!(&c[..n], whole);
            assert!(c[n..].iter().all(|between| between.is_nan()));
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let (m, n, k) = (32, 32, 32);
    let (mut a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    a[5] = f32::NAN;
    for unit in units() {
        let mut c = vec![0.0; m * n];
        multiply_into(unit, &mut c, n, &a, &b, n);
        assert!(c[..n].iter().all(|x| x.is_nan()) && c[n..].iter().all(|x| x.is_finite()));
    }
}

#[test]
fn the_micro_kernel_is_the_reference_implementation() {
    let Some(unit) = TileUnit::of_processor() else { return };
    let (steps, bias) = (70, numbers(NR, 3));
    let packed = |operand, seed| {
        let mut packed = PackedBlock::new(unit, operand);
        packed.pack(Matrix::new(&numbers(MR * steps, seed), steps, 1), 0..MR, 0..steps);
        packed
    };
    let (a, b) = (packed(Operand::A, 1), packed(Operand::B, 2));
    for (rows, columns) in [(MR, NR), (MR, 5), (7, NR)] {
        for beta in [Beta::Zero, Beta::One, Beta::Bias(&bias)] {
            let [native, portable] = [unit, TileUnit::portable()].map(|unit| {
                let registers = TileRegisters::new(unit);
                let mut numbers = numbers(MR * NR, 4);
                let c = MatrixPtr {
                    data: numbers.as_mut_ptr(),
                    row_stride: NR,
                };
                // SAFETY: a micro-tile of numbers as large as can be.
                unsafe { registers.multiply(a.panel(0), b.panel(0), beta, c, rows, columns) };
                numbers
            });
            for (native, portable) in native.iter().zip(&portable) {
                assert!((native - portable).abs() < 1e-5, "{native} against {portable}");
            }
        }
    }
}
