//! The reference implementation: the formulas in tensor operations, in the gradient's type.

use candle_core::{DType, Result, Tensor};

use super::{Factors, Parameter, Sums};

/// Σ x and Σ x², in the type of `x` on its device.
pub(super) fn sums(x: &Tensor) -> Result<Sums> {
    let number = |x: Tensor| x.to_dtype(DType::F32)?.to_scalar::<f32>().map(f64::from);
    Ok(Sums {
        plain: number(x.sum_all()?)?,
        squares: number(x.sqr()?.sum_all()?)?,
    })
}

/// One step of one parameter.
pub(super) fn step(factors: &Factors, parameter: &Parameter<'_>) -> Result<()> {
    let gradient = parameter.gradient.tensor();
    let wide = |tensor: &Tensor| tensor.detach().to_dtype(gradient.dtype());
    let g = (gradient * factors.gradient_scale)?;
    let m = ((wide(parameter.m)? * factors.beta1)? + (&g * (1.0 - factors.beta1))?)?;
    let v = ((wide(parameter.v)? * factors.beta2)? + (g.sqr()? * (1.0 - factors.beta2))?)?;
    let divisor = ((v.sqrt()? * factors.root)? + factors.eps)?;
    let value = ((wide(parameter.value)? * factors.keep)? - ((&m * factors.rate)? / divisor)?)?;
    set(parameter.value, &value)?;
    set(parameter.m, &m)?;
    set(parameter.v, &v)
}

/// Copies `from` into the memory of `to`.
fn set(to: &Tensor, from: &Tensor) -> Result<()> {
    if to.elem_count() == 0 {
        return Ok(());
    }
    to.detach()
        .flatten_all()?
        .slice_set(&from.to_dtype(to.dtype())?.flatten_all()?.contiguous()?, 0, 0)
}
