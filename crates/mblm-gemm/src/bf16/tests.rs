//! Compares products with double-precision sums of numbers that the `half` crate rounded.

use super::*;
use crate::test_data::numbers;

/// Element (i, j) of a matrix, rounded.
fn at(matrix: Matrix<f32>, i: usize, j: usize) -> f64 {
    half::bf16::from_f32(matrix.data[i * matrix.row_stride + j * matrix.column_stride]).to_f64()
}

type NewProduct = fn(Option<&[f32]>, Dims, Matrix<f32>, Matrix<f32>) -> Vec<f32>;
type AddProduct = fn(&mut [f32], Dims, Matrix<f32>, Matrix<f32>);

/// One way of multiplying.
struct Way {
    product: NewProduct,
    add_product: AddProduct,
}

/// All ways of multiplying. The vector way runs on any processor.
const WAYS: [Way; 4] = [
    Way {
        product: vector_product,
        add_product: add_vector_product,
    },
    Way {
        product: rounded_product,
        add_product: add_rounded_product,
    },
    Way {
        product: |bias, dims, a, b| exact::product_by(Backend::Tiles(TileUnit::portable()), bias, dims, a, b),
        add_product: |c, dims, a, b| add_product_by(Backend::Tiles(TileUnit::portable()), c, dims, a, b),
    },
    Way {
        product: |bias, dims, a, b| exact::product_by(Backend::Tiles(TileUnit::any()), bias, dims, a, b),
        add_product: |c, dims, a, b| add_product_by(Backend::Tiles(TileUnit::any()), c, dims, a, b),
    },
];

#[test]
fn products_are_those_of_rounded_numbers() {
    for way in &WAYS {
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
            products_of(way, Dims::new(m, n, k));
        }
    }
}

/// Checks every layout of A and B with every β.
fn products_of(way: &Way, dims: Dims) {
    let Dims { m, n, k } = dims;
    let (a_data, b_data, row, before) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3), numbers(m * n, 4));
    for a in [Matrix::new(&a_data, k, 1), Matrix::new(&a_data, 1, m)] {
        for b in [Matrix::new(&b_data, n, 1), Matrix::new(&b_data, 1, k)] {
            for beta in [Beta::Zero, Beta::One, Beta::Bias(&row)] {
                let c = match beta {
                    Beta::Zero => (way.product)(None, dims, a, b),
                    Beta::Bias(row) => (way.product)(Some(row), dims, a, b),
                    Beta::One => {
                        let mut c = before.clone();
                        (way.add_product)(&mut c, dims, a, b);
                        c
                    }
                };
                for (index, found) in c.into_iter().enumerate() {
                    let (i, j) = (index / n, index % n);
                    let sum: f64 = (0..k).map(|step| at(a, i, step) * at(b, step, j)).sum();
                    let expected = sum
                        + match beta {
                            Beta::Zero => 0.0,
                            Beta::One => f64::from(before[index]),
                            Beta::Bias(row) => f64::from(row[j]),
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

#[test]
fn nothing_to_sum_leaves_what_it_is_added_to() {
    for way in &WAYS {
        let dims = Dims::new(2, 2, 0);
        let (a, b) = (Matrix::new(&[], 0, 1), Matrix::new(&[], 2, 1));
        let mut c = [9.0f32; 4];
        (way.add_product)(&mut c, dims, a, b);
        assert_eq!(c, [9.0; 4]);
        assert_eq!((way.product)(Some(&[1.0, 2.0]), dims, a, b), [1.0, 2.0, 1.0, 2.0]);
        assert_eq!((way.product)(None, dims, a, b), [0.0; 4]);
        let (none, two) = (Matrix::new(&[], 1, 1), [1.0, 1.0]);
        assert!((way.product)(None, Dims::new(0, 2, 1), none, Matrix::new(&two, 2, 1)).is_empty());
        assert!(
            (way.product)(
                None,
                Dims::new(2, 0, 1),
                Matrix::new(&two, 1, 1),
                Matrix::new(&[], 0, 1)
            )
            .is_empty()
        );
    }
}
