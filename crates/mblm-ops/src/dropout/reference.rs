//! The reference implementation: the mask as a tensor, then a product.

use candle_core::{Device, Result, Tensor};

use super::Dropout;

/// `x` with the mask applied, differentiable by candle.
///
/// The mask is made on the CPU and moved to the device of `x`.
pub(crate) fn apply(x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    let mask: Vec<f64> = (0..x.elem_count() as u64)
        .map(|element| if dropout.keeps(element) { dropout.scale() } else { 0.0 })
        .collect();
    let mask = Tensor::from_vec(mask, x.dims(), &Device::Cpu)?;
    x * mask.to_dtype(x.dtype())?.to_device(x.device())?
}
