//! Compares products with the reference, packed with unpacked, rounded with exact ones.

use candle_core::{DType, Result, Tensor};

use crate::check::Harness;
use crate::linear::Products;
use crate::relative_error;
use crate::testing::uniform;
use crate::{GradBuffer, linear, op_test};

/// The layer with a bias, for inputs of one shape.
macro_rules! with_bias {
    ($shape:expr) => {
        Harness::new("linear", &[$shape, &[7, 5], &[7]])
            .wide(&[2])
            .reference(|t| Ok(vec![linear::reference::forward(&t[0], &t[1], Some(&t[2]))?]))
            .fused(|t| Ok((vec![linear::forward(&t[0], &t[1], Some(&t[2]))?], ())))
            .backward(|t, (), dy, grads| {
                let [_, dw, db] = grads else {
                    unreachable!("three inputs")
                };
                let dx = linear::backward(&t[0], &t[1], dy[0], dw, Some(db))?;
                Ok(vec![Some(dx), None, None])
            })
    };
}

op_test! {
    with_bias: with_bias!(&[3, 4, 5])
    one_row: with_bias!(&[1, 5])
    few_rows: with_bias!(&[2, 3, 5])
    rows_of_every_tile: with_bias!(&[1, 31, 5])
}

/// The layer with a packed weight.
fn packed(t: &[Tensor], bias: bool) -> Result<Tensor> {
    let Some(packed) = linear::pack(&t[1])? else {
        panic!("no packed form on the CPU");
    };
    linear::forward_packed(&t[0], &t[1], &packed, bias.then_some(&t[2]))
}

#[test]
fn a_packed_weight_equals_the_reference() -> Result<()> {
    for (rows, outputs, inputs) in [
        (1, 1, 1),
        (1, 257, 256),
        (2, 6, 19),
        (3, 70, 5),
        (8, 512, 37),
        (31, 33, 64),
        (40, 7, 5),
    ] {
        let inputs = [&[rows, inputs][..], &[outputs, inputs], &[outputs]];
        let exact: Vec<Tensor> = (1..)
            .zip(inputs)
            .map(|(seed, shape)| uniform(shape, seed))
            .collect::<Result<_>>()?;
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
            let t: Vec<Tensor> = exact.iter().map(|t| t.to_dtype(dtype)).collect::<Result<_>>()?;
            for bias in [true, false] {
                let expected = linear::reference::forward(&t[0], &t[1], bias.then_some(&t[2]))?;
                assert!(
                    relative_error(&packed(&t, bias)?, &expected, 1e-6)? < tolerance,
                    "{rows} rows"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_gives_the_same_alone_and_in_company() -> Result<()> {
    let tensor = |shape: &[usize], seed| uniform(shape, seed)?.to_dtype(DType::F32);
    for (outputs, inputs) in [(257, 256), (6, 19), (1, 1), (512, 37)] {
        let (weight, bias) = (tensor(&[outputs, inputs], 1)?, tensor(&[outputs], 2)?);
        let x = tensor(&[32, inputs], 3)?;
        let of_rows = |from: usize, rows: usize| -> Result<Vec<Vec<f32>>> {
            packed(&[x.narrow(0, from, rows)?, weight.clone(), bias.clone()], true)?.to_vec2()
        };
        let alone: Vec<Vec<f32>> = (0..32).map(|row| of_rows(row, 1)).collect::<Result<Vec<_>>>()?.concat();
        for rows in [2, 3, 8, 31, 32] {
            assert_eq!(of_rows(0, rows)?, alone[..rows], "{rows} rows of {inputs}");
        }
    }
    Ok(())
}

/// A weight with one element that is no bfloat16 number is packed unrounded.
#[test]
fn bfloat16_weights_give_what_they_give_as_they_are() -> Result<()> {
    for (rows, outputs, inputs) in [(1, 257, 256), (1, 1, 1), (3, 70, 5), (31, 33, 64)] {
        let single = |shape: &[usize], seed| uniform(shape, seed)?.to_dtype(DType::F32);
        let (x, bias) = (single(&[rows, inputs], 1)?, single(&[outputs], 3)?);
        let weight = single(&[outputs, inputs], 2)?;
        let rounded = weight.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
        let (Some(full), Some(half)) = (linear::pack(&weight)?, linear::pack(&rounded)?) else {
            panic!("no packed form on the CPU");
        };
        assert!(matches!(
            (&full.0, &half.0),
            (linear::Form::F32(_), linear::Form::Bf16(_))
        ));
        let Some(same) = linear::cpu::pack::<f32, f32>(&rounded)? else {
            panic!("every number can lie as it is");
        };
        let same = linear::Packed(linear::Form::F32(same));
        let of = |packed| linear::forward_packed(&x, &rounded, packed, Some(&bias))?.to_vec2::<f32>();
        assert_eq!(of(&half)?, of(&same)?, "{rows} rows");
    }
    Ok(())
}

/// Compares with the same formulas in `f64` on operands that candle rounds.
#[test]
fn rounded_products_are_exact_products_of_rounded_numbers() -> Result<()> {
    let rounded = |t: &Tensor| t.to_dtype(DType::BF16)?.to_dtype(DType::F64);
    for (rows, outputs, inputs) in [(33, 1, 1), (40, 70, 5), (64, 33, 100), (129, 48, 33)] {
        let single = |shape: &[usize], seed| uniform(shape, seed)?.to_dtype(DType::F32);
        let (x, weight, bias) = (
            single(&[1, rows, inputs], 1)?,
            single(&[outputs, inputs], 2)?,
            single(&[outputs], 3)?,
        );
        let dy = single(&[1, rows, outputs], 4)?;
        let y = linear::forward_with(Products::Bf16, &x, &weight, Some(&bias))?;
        let expected =
            linear::reference::forward(&rounded(&x)?, &rounded(&weight)?, Some(&bias.to_dtype(DType::F64)?))?;
        assert!(relative_error(&y, &expected, 1e-6)? < 1e-6);
        let (mut dw, mut db) = (GradBuffer::zeros_like(&weight)?, GradBuffer::zeros_like(&bias)?);
        dw.add(&weight)?;
        let dx = linear::backward_with(Products::Bf16, &x, &weight, &dy, &mut dw, Some(&mut db))?;
        let of_rows = x.clone();
        let (x, rounded_dy) = (rounded(&x)?.squeeze(0)?, rounded(&dy)?.squeeze(0)?);
        let expected = rounded_dy.matmul(&rounded(&weight)?)?.unsqueeze(0)?;
        assert!(relative_error(&dx, &expected, 1e-6)? < 1e-6);
        let mut other = GradBuffer::zeros_like(&weight)?;
        let sum = Some((&dx * 2.0)?);
        let tripled = linear::backward_onto(Products::Bf16, sum, &of_rows, &weight, &dy, &mut other, None)?;
        assert!(relative_error(&tripled, &(expected * 3.0)?, 1e-6)? < 1e-6);
        let expected = (rounded_dy.t()?.contiguous()?.matmul(&x)? + weight.to_dtype(DType::F64)?)?;
        assert!(relative_error(dw.tensor(), &expected, 1e-6)? < 1e-6);
        assert!(relative_error(db.tensor(), &dy.squeeze(0)?.to_dtype(DType::F64)?.sum(0)?, 1e-6)? < 1e-6);
    }
    Ok(())
}

#[test]
fn few_rows_and_other_types_stay_exact() -> Result<()> {
    for (rows, dtype) in [(linear::EXACT_ROWS, DType::F32), (64, DType::F64)] {
        let (x, weight) = (
            uniform(&[rows, 9], 1)?.to_dtype(dtype)?,
            uniform(&[5, 9], 2)?.to_dtype(dtype)?,
        );
        let found = linear::forward_with(Products::Bf16, &x, &weight, None)?;
        assert_eq!(relative_error(&found, &linear::forward(&x, &weight, None)?, 1e-6)?, 0.0);
    }
    Ok(())
}

#[test]
fn wrong_shapes_are_errors() -> Result<()> {
    let (x, weight) = (uniform(&[2, 5], 1)?, uniform(&[7, 5], 2)?);
    let Some(other) = linear::pack(&uniform(&[6, 5], 3)?)? else {
        panic!("no packed form on the CPU");
    };
    assert!(linear::forward_packed(&x, &weight, &other, None).is_err());
    assert!(linear::forward(&x, &weight, Some(&x)).is_err());
    assert!(linear::pack(&weight.to_dtype(DType::BF16)?)?.is_none());
    Ok(())
}

op_test! {
    onto_a_sum: Harness::new("linear", &[&[40, 18], &[24, 18], &[8, 18]])
        .reference(|t| {
            let [a, b] = [&t[1], &t[2]].map(|weight| linear::reference::forward(&t[0], weight, None));
            Ok(vec![a?, b?])
        })
        .fused(|t| {
            let [a, b] = [&t[1], &t[2]].map(|weight| linear::forward(&t[0], weight, None));
            Ok((vec![a?, b?], ()))
        })
        .backward(|t, (), dy, grads| {
            let sum = linear::backward(&t[0], &t[1], dy[0], &mut grads[1], None)?;
            let exact = Products::Exact;
            let dx = linear::backward_onto(exact, Some(sum), &t[0], &t[2], dy[1], &mut grads[2], None)?;
            Ok(vec![Some(dx), None, None])
        })
}

op_test! {
    without_bias: Harness::new("linear", &[&[33, 18], &[20, 18]])
        .reference(|t| Ok(vec![linear::reference::forward(&t[0], &t[1], None)?]))
        .fused(|t| Ok((vec![linear::forward(&t[0], &t[1], None)?], ())))
        .backward(|t, (), dy, grads| {
            let dx = linear::backward(&t[0], &t[1], dy[0], &mut grads[1], None)?;
            Ok(vec![Some(dx), None])
        })
}
