//! The processor's unit against `f32` arithmetic; products in tiles against exact ones are among the tests of [`crate::cpu::bf16`].

use super::*;
use crate::testing::numbers;

/// `f32` arithmetic, and the processor's unit where it has one.
fn units() -> impl Iterator<Item = Unit> {
    [Some(Unit::portable()), Unit::of_processor()].into_iter().flatten()
}

#[test]
fn nothing_between_rows_is_touched() {
    let (m, n, k, stride) = (40, 33, 32, 50);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    for unit in units() {
        let (mut out, mut whole) = (vec![f32::NAN; m * stride], vec![0.0; m * n]);
        for (out, stride) in [(&mut out, stride), (&mut whole, n)] {
            // SAFETY: there are m rows, as long as n or longer.
            unsafe {
                multiply(
                    unit,
                    (out.as_mut_ptr(), stride),
                    Start::Zero,
                    (m, n, k),
                    (&a, k, 1),
                    (&b, n, 1),
                )
            };
        }
        for (out, whole) in out.chunks(stride).zip(whole.chunks(n)) {
            assert_eq!(&out[..n], whole);
            assert!(out[n..].iter().all(|between| between.is_nan()));
        }
    }
}

#[test]
fn numbers_that_are_none_stay_none() {
    let (m, n, k) = (32, 32, 32);
    let (mut a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    a[5] = f32::NAN;
    for unit in units() {
        let mut out = vec![0.0; m * n];
        // SAFETY: there are m rows of n.
        unsafe {
            multiply(
                unit,
                (out.as_mut_ptr(), n),
                Start::Zero,
                (m, n, k),
                (&a, k, 1),
                (&b, n, 1),
            )
        };
        assert!(out[..n].iter().all(|x| x.is_nan()) && out[n..].iter().all(|x| x.is_finite()));
    }
}

/// The processor's tiles and `f32` arithmetic, where the processor has tiles.
#[test]
fn tiles_agree() {
    let Some(unit) = Unit::of_processor() else { return };
    let (steps, row) = (70, numbers(LANES, 3));
    let strips = |side, seed| {
        let mut strips = Strips::new(unit, side);
        strips.fill((&numbers(LANES * steps, seed), steps, 1), 0..LANES, 0..steps);
        strips
    };
    let (left, right) = (strips(Side::Left, 1), strips(Side::Right, 2));
    for (rows, columns) in [(LANES, LANES), (LANES, 5), (7, LANES)] {
        let block = Block {
            rows,
            columns,
            stride: LANES,
        };
        for start in [Start::Zero, Start::Held, Start::Row(&row)] {
            let [native, portable] = [unit, Unit::portable()].map(|unit| {
                let tiles = Tiles::new(unit);
                let mut out = numbers(LANES * LANES, 4);
                // SAFETY: a block of numbers as large as can be.
                unsafe { tiles.multiply(left.strip(0), right.strip(0), start, out.as_mut_ptr(), block) };
                out
            });
            for (native, portable) in native.iter().zip(&portable) {
                assert!((native - portable).abs() < 1e-5, "{native} against {portable}");
            }
        }
    }
}
