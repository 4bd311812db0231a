//! Widens half precision to `f32`, and measures the error between two tensors.
//!
//! Norms, exponentials and sums lose too much in half precision.

use candle_core::{DType, Device, Result, Tensor};

/// `tensor`, in `f32` if it has half precision: the type in which reference implementations
/// compute.
pub fn widened(tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32),
        _ => Ok(tensor.clone()),
    }
}

/// ‖found − expected‖ / ‖expected‖ in `f64`; ‖found − expected‖ if ‖expected‖ is below `floor`.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// let (found, expected) = (Tensor::new(&[3f64, 4.0], &Device::Cpu)?, Tensor::new(&[3f64, 4.1], &Device::Cpu)?);
/// assert!(mblm_ops::relative_error(&found, &expected, 0.0)? < 0.02);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn relative_error(found: &Tensor, expected: &Tensor, floor: f64) -> Result<f64> {
    if found.dims() != expected.dims() {
        candle_core::bail!("shapes differ: {:?} and {:?}", found.dims(), expected.dims());
    }
    let host = |tensor: &Tensor| -> Result<Vec<f64>> {
        tensor
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .flatten_all()?
            .to_vec1()
    };
    let (found, expected) = (host(found)?, host(expected)?);
    let difference: f64 = found.iter().zip(&expected).map(|(f, e)| (f - e).powi(2)).sum();
    let norm = expected.iter().map(|e| e.powi(2)).sum::<f64>().sqrt();
    Ok(difference.sqrt() / if norm > floor { norm } else { 1.0 })
}
