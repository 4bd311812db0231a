//! The exact GELU of a vector plus a bias.
//!
//! ```text
//! v = x + b                              x (…, d), b (d)
//! y = v Φ(v),  Φ(v) = (1 + erf(v / √2)) / 2
//! dx = dy (Φ(v) + v φ(v)),  φ(v) = e^(−v²/2) / √(2π);   db = Σ_rows dx
//! ```
//!
//! Source: arXiv 1606.08415, in the form with the error function, not with tanh. Nothing is kept.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mblm_ops::gelu;
//!
//! let x = Tensor::new(&[[0f32, 10.0, -10.0]], &Device::Cpu)?;
//! let y = gelu::forward(&x, None)?.to_vec2::<f32>()?;
//! assert!(y[0][0] == 0.0 && (y[0][1] - 10.0).abs() < 1e-5 && y[0][2].abs() < 1e-5);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{D, DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// GELU(x + bias) for `x` (…, d) and `bias` (d).
pub fn forward(x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check(x, bias)?;
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, bias),
        (true, DType::F64) => cpu::forward::<f64>(x, bias),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::forward(x, bias),
        _ => reference::forward(x, bias),
    }
}

/// Adds the gradient of the bias to its buffer and returns the gradient of `x`.
///
/// `x` and `bias` are the arguments of [`forward`], `dy` (…, d) the gradient of its result. With a
/// buffer but no bias, the buffer gets the gradient of a bias of zeros.
pub fn backward(x: &Tensor, bias: Option<&Tensor>, dy: &Tensor, d_bias: Option<&mut GradBuffer>) -> Result<Tensor> {
    let d = check(x, bias)?;
    if dy.dims() != x.dims() {
        candle_core::bail!("gelu: expected a gradient of {:?}, found {:?}", x.dims(), dy.dims());
    }
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::backward::<f32>(x, bias, dy, d_bias),
        (true, DType::F64) => cpu::backward::<f64>(x, bias, dy, d_bias),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::backward(x, bias, dy, d_bias),
        _ => {
            let gradients = fallback::gradients(&[x], &[Some(dy)], |inputs| {
                Ok(vec![reference::forward(&inputs[0], bias)?])
            })?;
            if let Some(d_bias) = d_bias {
                d_bias.add(&gradients[0].reshape(((), d))?.sum(0)?)?; // (rows, d)
            }
            Ok(gradients[0].clone())
        }
    }
}

fn check(x: &Tensor, bias: Option<&Tensor>) -> Result<usize> {
    let d = if x.rank() == 0 { 0 } else { x.dim(D::Minus1)? };
    if d == 0 {
        candle_core::bail!("gelu: expected (…, d) with d > 0, found {:?}", x.dims());
    }
    match bias.map(Tensor::dims) {
        Some(dims) if dims != [d] => {
            candle_core::bail!("gelu: expected a bias of [{d}] for {:?}, found {dims:?}", x.dims())
        }
        _ => Ok(d),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result};

    use super::*;
    use crate::check::Harness;
    use crate::op_test;

    /// Inputs x (scaled to ±5, where GELU bends and beyond) and bias.
    macro_rules! with_bias {
        ($($dim:expr),+; $d:expr) => {
            Harness::new("gelu", &[&[$($dim,)+ $d], &[$d]])
                .wide(&[1])
                .affine(0, 5.0, 0.0)
                .reference(|t| Ok(vec![reference::forward(&t[0], Some(&t[1]))?]))
                .fused(|t| Ok((vec![forward(&t[0], Some(&t[1]))?], ())))
                .backward(|t, (), dy, grads| {
                    Ok(vec![Some(backward(&t[0], Some(&t[1]), dy[0], Some(&mut grads[1]))?), None])
                })
        };
    }

    op_test! {
        with_bias: with_bias!(2, 3; 9)
        wide: with_bias!(2; 100)
        without_bias: Harness::new("gelu", &[&[4, 33]])
            .affine(0, 5.0, 0.0)
            .reference(|t| Ok(vec![reference::forward(&t[0], None)?]))
            .fused(|t| Ok((vec![forward(&t[0], None)?], ())))
            .backward(|t, (), dy, _| Ok(vec![Some(backward(&t[0], None, dy[0], None)?)]))
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn several_blocks_on_cuda_equal_the_reference() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            with_bias!(40, 130; 24).against_reference_on_cuda(dtype)?;
            with_bias!(2, 3; 4096).against_reference_on_cuda(dtype)?;
        }
        Ok(())
    }

    #[test]
    fn several_pieces_equal_the_reference() -> Result<()> {
        with_bias!(3, 200; 131).against_reference(DType::F32, &Device::Cpu)?;
        with_bias!(3, 200; 131).against_reference(DType::F64, &Device::Cpu)
    }

    #[test]
    fn values_agree_with_the_error_function_of_the_c_library() -> Result<()> {
        let points: Vec<f64> = (-80..=80).map(|i| f64::from(i) / 10.0).collect();
        let x = Tensor::new(points.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
        let found = forward(&x, None)?.squeeze(0)?.to_vec1::<f64>()?;
        let found_f32 = forward(&x.to_dtype(DType::F32)?, None)?.squeeze(0)?.to_vec1::<f32>()?;
        for ((x, y), y_f32) in points.iter().zip(found).zip(found_f32) {
            let exact = 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()));
            assert!((y - exact).abs() <= 1e-15 * x.abs().max(1.0), "gelu({x}) = {y}");
            assert!(
                (f64::from(y_f32) - exact).abs() <= 3e-7 * x.abs().max(1.0),
                "gelu({x}) = {y_f32} in f32"
            );
        }
        Ok(())
    }

    #[test]
    fn nan_stays_and_large_values_saturate() -> Result<()> {
        let x = Tensor::new(&[[f32::NAN, 1e6, -1e6, 1.0]], &Device::Cpu)?;
        let y = forward(&x, None)?.to_vec2::<f32>()?.remove(0);
        assert!(
            y[0].is_nan() && (y[1] - 1e6).abs() <= 1.0 && y[2].abs() <= 1.0 && y[3].is_finite(),
            "{y:?}"
        );
        let dx = backward(&x, None, &x.ones_like()?, None)?.to_vec2::<f32>()?.remove(0);
        assert!(
            dx[0].is_nan() && (dx[1] - 1.0).abs() < 1e-6 && dx[2].abs() < 1e-6,
            "{dx:?}"
        );
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_errors() -> Result<()> {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu);
        assert!(forward(&zeros(&[2, 3])?, Some(&zeros(&[2])?)).is_err());
        assert!(forward(&zeros(&[])?, None).is_err());
        assert!(backward(&zeros(&[2, 3])?, None, &zeros(&[3, 2])?, None).is_err());
        Ok(())
    }
}
