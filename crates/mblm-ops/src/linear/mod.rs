//! Linear layer over the last dimension.
//!
//! ```text
//! y = x Wᵀ + b          x (…, in), W (out, in), b (out), y (…, out)
//! dx = dy W [+ dx']     dW += dyᵀ x        db += Σ rows of dy
//! ```
//!
//! One matrix product forward and two backward; the weight's gradient is accumulated by the product itself (β = 1).
//!
//! With [`Products::Bf16`] each product rounds both its operands to bfloat16 first, r, and sums in `f32`:
//!
//! ```text
//! y = r(x) r(W)ᵀ + b     dx = r(dy) r(W)     dW += r(dy)ᵀ r(x)     db += Σ rows of dy
//! ```
//!
//! so that its gradients are those of the exact layer, computed with rounded numbers: not those of the rounding, which has
//! none.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mblm_ops::{GradBuffer, linear};
//!
//! let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
//! let weight = Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?; // (out, in)
//! let y = linear::forward(&x, &weight, None)?;
//! assert_eq!(y.to_vec2::<f32>()?, [[11.0]]);
//!
//! let mut d_weight = GradBuffer::zeros_like(&weight)?;
//! let dx = linear::backward(&x, &weight, &y.ones_like()?, &mut d_weight, None)?;
//! assert_eq!(dx.to_vec2::<f32>()?, [[3.0, 4.0]]);
//! assert_eq!(d_weight.tensor().to_vec2::<f32>()?, [[1.0, 2.0]]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};
use half::bf16;

use crate::cpu::PackedB;
use crate::{GradBuffer, fallback};

/// How a linear layer multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// In the type of the tensors.
    #[default]
    Exact,
    /// Rounded to bfloat16, summed in `f32`: for `f32` tensors on the CPU, with more than [`EXACT_ROWS`] rows.
    Bf16,
}

/// Most rows whose products are exact in any case: what costs time then is reading the weight.
pub const EXACT_ROWS: usize = 32;

impl Products {
    /// Whether a product of `x` rounds.
    fn round(self, x: &Tensor) -> bool {
        let rows = x.elem_count() / x.dims().last().copied().unwrap_or(1).max(1);
        self == Self::Bf16 && x.device().is_cpu() && x.dtype() == DType::F32 && rows > EXACT_ROWS
    }

    /// Whether this processor rounds and multiplies faster than it multiplies exactly: AMD's do that have AVX-512-BF16, Intel's
    /// that have AMX.
    pub fn bf16_is_fast() -> bool {
        mblm_gemm::processor().bf16_is_fast()
    }
}

/// [`forward`] with `products` of that kind.
pub fn forward_with(products: Products, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check(x, weight, bias)?;
    match products.round(x) {
        true => cpu::forward_rounded(x, weight, bias),
        false => forward(x, weight, bias),
    }
}

/// [`backward`] with `products` of that kind.
pub fn backward_with(
    products: Products,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    backward_onto(products, None, x, weight, dy, d_weight, d_bias)
}

/// [`backward_with`] that adds the gradient of `x` to `sum`, of the same shape and type, where there is one.
///
/// Nobody else may hold `sum`: its memory may become that of the result.
pub fn backward_onto(
    products: Products,
    sum: Option<Tensor>,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: Option<&mut GradBuffer>,
) -> Result<Tensor> {
    check(x, weight, None)?;
    if let Some(sum) = &sum
        && (sum.dims() != x.dims() || sum.dtype() != x.dtype())
    {
        candle_core::bail!(
            "linear: expected a sum of {:?} in {:?}, found {:?} in {:?}",
            x.dims(),
            x.dtype(),
            sum.dims(),
            sum.dtype()
        );
    }
    let sum = sum.map(|sum| sum.contiguous()).transpose()?;
    match (x.device().is_cpu(), x.dtype()) {
        _ if products.round(x) => cpu::backward_rounded(sum, x, weight, dy, d_weight, d_bias),
        (true, DType::F32) => cpu::backward::<f32>(sum, x, weight, dy, d_weight, d_bias),
        (true, DType::F64) => cpu::backward::<f64>(sum, x, weight, dy, d_weight, d_bias),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::backward(sum, x, weight, dy, d_weight, d_bias),
        _ => {
            let gradients = fallback::gradients(&[x, weight], &[Some(dy)], |inputs| {
                Ok(vec![reference::forward(&inputs[0], &inputs[1], None)?])
            })?;
            d_weight.add(&gradients[1])?;
            if let Some(d_bias) = d_bias {
                d_bias.add(&dy.flatten_to(dy.rank() - 2)?.sum(0)?)?;
            }
            match sum {
                Some(sum) => sum + &gradients[0],
                None => Ok(gradients[0].clone()),
            }
        }
    }
}

/// y = x Wᵀ + b, for `x` (…, in), `weight` (out, in) and `bias` (out).
pub fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check(x, weight, bias)?;
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, weight, bias),
        (true, DType::F64) => cpu::forward::<f64>(x, weight, bias),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::forward(x, weight, bias),
        _ => reference::forward(x, weight, bias),
    }
}

/// A copy of a weight in the form that products with few rows read fastest: for decoding, which uses a weight many times.
pub struct Packed(Form);

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Packed").field(&self.0.dims()).finish()
    }
}

enum Form {
    /// Of a weight of `f32` whose values are all bfloat16.
    Bf16(PackedB<bf16>),
    F32(PackedB<f32>),
    F64(PackedB<f64>),
}

impl Form {
    /// Outputs and inputs.
    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Bf16(packed) => (packed.columns(), packed.rows()),
            Self::F32(packed) => (packed.columns(), packed.rows()),
            Self::F64(packed) => (packed.columns(), packed.rows()),
        }
    }
}

/// Rearranges `weight` (out, in) for [`forward_packed`]; `None` where there is no such form: for types other than `f32` and
/// `f64`, elsewhere than on the CPU, and for a weight without elements. Values that are all bfloat16 take half the memory, which
/// changes no result.
pub fn pack(weight: &Tensor) -> Result<Option<Packed>> {
    if !weight.device().is_cpu() || weight.elem_count() == 0 {
        return Ok(None);
    }
    let form = match weight.dtype() {
        DType::F32 => match cpu::pack::<f32, bf16>(weight)? {
            Some(packed) => Some(Form::Bf16(packed)),
            None => cpu::pack::<f32, f32>(weight)?.map(Form::F32),
        },
        DType::F64 => cpu::pack::<f64, f64>(weight)?.map(Form::F64),
        _ => None,
    };
    Ok(form.map(Packed))
}

/// [`forward`], reading `packed` instead of `weight`, of which it is a copy, where `x` has few rows.
///
/// A row then gives the same alone and in company, bit for bit.
pub fn forward_packed(x: &Tensor, weight: &Tensor, packed: &Packed, bias: Option<&Tensor>) -> Result<Tensor> {
    check(x, weight, bias)?;
    let found = packed.0.dims();
    if found != weight.dims2()? {
        candle_core::bail!(
            "linear: expected the packed form of a weight of {:?}, found one of {found:?}",
            weight.dims()
        );
    }
    let y = match &packed.0 {
        Form::Bf16(packed) => cpu::forward_packed::<f32, _>(x, packed, bias)?,
        Form::F32(packed) => cpu::forward_packed::<f32, _>(x, packed, bias)?,
        Form::F64(packed) => cpu::forward_packed::<f64, _>(x, packed, bias)?,
    };
    match y {
        Some(y) => Ok(y),
        None => forward(x, weight, bias),
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
    backward_onto(Products::Exact, None, x, weight, dy, d_weight, d_bias)
}

fn check(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let (outputs, inputs) = weight.dims2()?;
    if let Some(bias) = bias
        && bias.dims() != [outputs]
    {
        candle_core::bail!(
            "linear: expected a bias of [{outputs}] for a weight of {:?}, found {:?}",
            weight.dims(),
            bias.dims()
        );
    }
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
    use candle_core::{DType, Result, Tensor};

    use crate::check::Harness;
    use crate::linear::Products;
    use crate::relative_error;
    use crate::testing::uniform;
    use crate::{GradBuffer, linear, op_test};

    /// The layer with bias on inputs of one shape.
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

    /// With the weight packed.
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

    /// A weight of bfloat16 numbers among which is one that is not lies as it is.
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

    /// Against the same formulas in `f64` on operands that candle rounds.
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
}
