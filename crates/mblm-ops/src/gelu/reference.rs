//! The reference implementation, with candle's error function.
//!
//! Candle's own GELU has a gradient of only six digits.

use candle_core::{Result, Tensor};

use crate::precision::widened;

/// GELU(x + bias), differentiable by candle.
pub(crate) fn forward(x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let v = match bias {
        Some(bias) => widened(x)?.broadcast_add(&widened(bias)?)?,
        None => widened(x)?,
    };
    let phi = ((&v * std::f64::consts::FRAC_1_SQRT_2)?.erf()? * 0.5)?;
    (v * (phi + 0.5)?)?.to_dtype(x.dtype())
}
