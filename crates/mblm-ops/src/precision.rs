//! Half-precision tensors are computed with in `f32`: norms, exponentials and sums lose too much in their own type.

use candle_core::{DType, Result, Tensor};

/// `tensor` in `f32` where its type is of half precision, as it is otherwise: what reference implementations compute in.
pub fn widened(tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32),
        _ => Ok(tensor.clone()),
    }
}
