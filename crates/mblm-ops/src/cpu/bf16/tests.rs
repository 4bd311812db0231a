//! Products against sums in double precision of numbers that the `half` crate rounded.

use super::*;
use crate::testing::numbers;

/// The rounded element of a matrix.
fn at((data, row, column): Matrix, i: usize, j: usize) -> f64 {
    half::bf16::from_f32(data[i * row + j * column]).to_f64()
}

/// All ways of multiplying, those in vectors whatever this processor has.
const WAYS: [(NewProduct, AddProduct); 4] = [
    (tiled_product, add_tiled_product),
    (rounded_product, add_rounded_product),
    (
        |bias, sizes, a, b| gemm::new_product_by(By::Tiles(Unit::portable()), bias, sizes, a, b),
        |out, sizes, a, b| gemm::product_by(By::Tiles(Unit::portable()), (out, sizes.1), true, sizes, a, b, true),
    ),
    (
        |bias, sizes, a, b| gemm::new_product_by(By::Tiles(Unit::any()), bias, sizes, a, b),
        |out, sizes, a, b| gemm::product_by(By::Tiles(Unit::any()), (out, sizes.1), true, sizes, a, b, true),
    ),
];

type NewProduct = fn(Option<&[f32]>, (usize, usize, usize), Matrix, Matrix) -> Vec<f32>;
type AddProduct = fn(&mut [f32], (usize, usize, usize), Matrix, Matrix);

#[test]
fn products_are_those_of_rounded_numbers() {
    for (product, add_product) in WAYS {
        are_those_of_rounded_numbers(product, add_product);
    }
}

fn are_those_of_rounded_numbers(product: NewProduct, add_product: AddProduct) {
    for (m, n, k) in [
        (1, 1, 1),
        (4, 64, 8),
        (5, 65, 3),
        (13, 31, 1025),
        (17, 33, 600),
        (130, 16, 9),
        (3, 200, 2),
        (32, 32, 32),
        (64, 32, 600),
        (16, 1040, 48),
        (300, 40, 100),
    ] {
        let (a_data, b_data, row, before) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3), numbers(m * n, 4));
        for a in [(&a_data[..], k, 1), (&a_data[..], 1, m)] {
            for b in [(&b_data[..], n, 1), (&b_data[..], 1, k)] {
                for start in [Start::Zero, Start::Held, Start::Row(&row)] {
                    let out = match start {
                        Start::Zero => product(None, (m, n, k), a, b),
                        Start::Row(row) => product(Some(row), (m, n, k), a, b),
                        Start::Held => {
                            let mut out = before.clone();
                            add_product(&mut out, (m, n, k), a, b);
                            out
                        }
                    };
                    for (index, found) in out.into_iter().enumerate() {
                        let (i, j) = (index / n, index % n);
                        let sum: f64 = (0..k).map(|step| at(a, i, step) * at(b, step, j)).sum();
                        let expected = sum
                            + match start {
                                Start::Zero => 0.0,
                                Start::Held => f64::from(before[index]),
                                Start::Row(row) => f64::from(row[j]),
                            };
                        assert!(
                            (f64::from(found) - expected).abs() <= 1e-6 * (1.0 + k as f64),
                            "({m}, {n}, {k}) at ({i}, {j}): {found} against {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_to_sum_leaves_the_start() {
    for (product, add_product) in WAYS {
        let sizes = (2, 2, 0);
        let (a, b) = ((&[][..], 0, 1), (&[][..], 2, 1));
        let mut out = [9.0f32; 4];
        add_product(&mut out, sizes, a, b);
        assert_eq!(out, [9.0; 4]);
        assert_eq!(product(Some(&[1.0, 2.0]), sizes, a, b), [1.0, 2.0, 1.0, 2.0]);
        assert_eq!(product(None, sizes, a, b), [0.0; 4]);
        assert!(product(None, (0, 2, 1), (&[], 1, 1), (&[1.0, 1.0], 2, 1)).is_empty());
        assert!(product(None, (2, 0, 1), (&[1.0, 1.0], 1, 1), (&[], 0, 1)).is_empty());
    }
}
