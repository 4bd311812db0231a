//! Linear layer over the last dimension.
//!
//! ```text
//! y = x Wᵀ + b          x (…, in), W (out, in), b (out), y (…, out)
//! dx = dy W             dW += dyᵀ x        db += Σ rows of dy
//! ```
//!
//! One matrix product forward and two backward; the weight's gradient is accumulated by the product itself (β = 1).

mod cpu;
pub mod reference;

use candle_core::{DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// y = x Wᵀ + b, for `x` (…, in), `weight` (out, in) and `bias` (out).
pub fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check(x, weight)?;
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, weight, bias),
        (true, DType::F64) => cpu::forward::<f64>(x, weight, bias),
        _ => reference::forward(x, weight, bias),
    }
}

/// Adds the gradients of weight and bias to their buffers and returns the gradient of `x`.
///
/// `x` and `weight` as given to [`forward`], `dy` (…, out) the gradient of its result.
pub fn backward(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    check(x, weight)?;
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::backward::<f32>(x, weight, dy, d_weight, d_bias),
        (true, DType::F64) => cpu::backward::<f64>(x, weight, dy, d_weight, d_bias),
        _ => {
            let gradients = fallback::gradients(&[x, weight], &[Some(dy)], |inputs| {
                Ok(vec![reference::forward(&inputs[0], &inputs[1], None)?])
            })?;
            d_weight.add(&gradients[1])?;
            if let Some(d_bias) = d_bias {
                d_bias.add(&dy.flatten_to(dy.rank() - 2)?.sum(0)?)?;
            }
            Ok(gradients[0].clone())
        }
    }
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    let (_, inputs) = weight.dims2()?;
    if inputs == 0 || x.rank() < 2 || x.dim(candle_core::D::Minus1)? != inputs {
        candle_core::bail!(
            "linear: expected (…, {inputs}) for a weight of {:?}, found {:?}",
            weight.dims(),
            x.dims()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;
    use crate::{linear, op_test};

    /// The layer with bias on inputs of one shape.
    macro_rules! with_bias {
        ($shape:expr) => {
            Harness::new("linear", &[$shape, &[7, 5], &[7]])
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

    #[test]
    fn a_row_gives_the_same_alone_and_in_company() {
        use candle_core::Device;
        let tensor = |shape: &[usize], seed| {
            let noise = crate::testing::uniform(shape, seed).unwrap();
            noise
                .to_dtype(candle_core::DType::F32)
                .unwrap()
                .to_device(&Device::Cpu)
                .unwrap()
        };
        for (outputs, inputs) in [(257, 256), (6, 19), (1, 1), (512, 37)] {
            let (weight, bias) = (tensor(&[outputs, inputs], 1), tensor(&[outputs], 2));
            let x = tensor(&[32, inputs], 3);
            let alone: Vec<Vec<f32>> = (0..32)
                .map(|row| {
                    let y = linear::forward(&x.narrow(0, row, 1).unwrap(), &weight, Some(&bias)).unwrap();
                    y.flatten_all().unwrap().to_vec1().unwrap()
                })
                .collect();
            for rows in [2, 3, 8, 31, 32] {
                let y = linear::forward(&x.narrow(0, 0, rows).unwrap(), &weight, Some(&bias)).unwrap();
                assert_eq!(y.to_vec2::<f32>().unwrap(), alone[..rows], "{rows} rows of {inputs}");
            }
        }
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
}
