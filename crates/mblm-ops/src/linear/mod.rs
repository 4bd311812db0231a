//! Linear layer over the last dimension.
//!
//! ```text
//! y = x Wᵀ + b          x (…, in), W (out, in), b (out), y (…, out)
//! dx = dy W [+ dx']     dW += dyᵀ x        db += Σ rows of dy
//! ```
//!
//! There is one matrix product forward and two backward; the product itself accumulates the
//! weight's gradient (β = 1).
//!
//! With [`Products::Bf16`], each product rounds both operands to bfloat16 (r) and sums in `f32`:
//!
//! ```text
//! y = r(x) r(W)ᵀ + b     dx = r(dy) r(W)     dW += r(dy)ᵀ r(x)     db += Σ rows of dy
//! ```
//!
//! The gradients are those of the exact layer, computed with rounded numbers. Rounding itself has
//! no gradient.
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

/// The precision of a linear layer's products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// Exact, in the type of the tensors.
    #[default]
    Exact,
    /// Rounded to bfloat16, summed in `f32`: for `f32` tensors on the CPU, with more than
    /// [`EXACT_ROWS`] rows.
    Bf16,
}

/// Most rows whose products are always exact: their time is spent reading the weight.
pub const EXACT_ROWS: usize = 32;

impl Products {
    /// Whether a product of `x` rounds.
    fn round(self, x: &Tensor) -> bool {
        let rows = x.elem_count() / x.dims().last().copied().unwrap_or(1).max(1);
        self == Self::Bf16 && x.device().is_cpu() && x.dtype() == DType::F32 && rows > EXACT_ROWS
    }

    /// Whether this processor multiplies rounded numbers faster than exact ones.
    ///
    /// True for AMD with AVX-512-BF16 and for Intel with AMX.
    pub fn bf16_is_fast() -> bool {
        mblm_gemm::processor().bf16_is_fast()
    }
}

/// [`forward`] with a choice of `products`.
pub fn forward_with(products: Products, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check(x, weight, bias)?;
    match products.round(x) {
        true => cpu::forward_rounded(x, weight, bias),
        false => forward(x, weight, bias),
    }
}

/// [`backward`] with a choice of `products`.
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

/// [`backward_with`], which adds the gradient of `x` to `sum`, if given, of the same shape and
/// type.
///
/// No other tensor may share the memory of `sum`: the result may reuse it.
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

/// A copy of a weight in the layout that products with few rows read fastest.
///
/// For decoding, which uses a weight many times.
pub struct Packed(Form);

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Packed").field(&self.0.dims()).finish()
    }
}

enum Form {
    /// A weight of `f32` whose values are all bfloat16 numbers.
    Bf16(PackedB<bf16>),
    F32(PackedB<f32>),
    F64(PackedB<f64>),
}

impl Form {
    /// The numbers of outputs and inputs.
    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Bf16(packed) => (packed.columns(), packed.rows()),
            Self::F32(packed) => (packed.columns(), packed.rows()),
            Self::F64(packed) => (packed.columns(), packed.rows()),
        }
    }
}

/// Packs `weight` (out, in) for [`forward_packed`]; `None` if it cannot be packed.
///
/// Only nonempty weights of `f32` or `f64` on the CPU can be packed. Values that are all bfloat16
/// numbers take half the memory, which changes no result.
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

/// [`forward`] that reads `packed`, a copy of `weight`, if `x` has few rows.
///
/// A row then gives the same result alone and among others, bit for bit.
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
/// `x` and `weight` are the arguments of [`forward`], `dy` (…, out) the gradient of its result.
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
mod tests;
