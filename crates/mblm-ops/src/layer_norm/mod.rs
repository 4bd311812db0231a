//! Layer norm over the last dimension.
//!
//! ```text
//! x̂ = (x − mean(x)) · f,  f = 1 / √(var(x) + 1e-5)      x (…, d); the variance divides by d
//! y = x̂ · w + b                                          w, b (d)
//! dx = f (w dy − mean(w dy) − x̂ mean(w dy x̂));   dw = Σ_rows dy x̂;   db = Σ_rows dy
//! ```
//!
//! Source: arXiv 1607.06450. The mean and factor of each row are kept for the backward pass.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::layer_norm;
//!
//! let x = Tensor::new(&[[1f32, 3.0]], &Device::Cpu)?;
//! let (one, zero) = (Tensor::ones(2, DType::F32, &Device::Cpu)?, Tensor::zeros(2, DType::F32, &Device::Cpu)?);
//! let (y, _) = layer_norm::forward(&x, &one, &zero)?;
//! let y = y.to_vec2::<f32>()?;
//! assert!((y[0][0] + 1.0).abs() < 1e-4 && (y[0][1] - 1.0).abs() < 1e-4);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{D, DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// Mean and factor of each row, (rows) each.
///
/// Absent if the reference implementation ran, which recomputes them.
#[derive(Clone, Debug)]
pub struct Saved {
    moments: Option<(Tensor, Tensor)>,
}

/// The layer norm of `x` (…, d) with `weight` and `bias` (d), eps 1e-5.
pub fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, Saved)> {
    let d = check(x, weight)?;
    if bias.dims() != [d] {
        candle_core::bail!("layer_norm: expected a bias of [{d}], found {:?}", bias.dims());
    }
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, weight, bias),
        (true, DType::F64) => cpu::forward::<f64>(x, weight, bias),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::forward(x, weight, bias),
        _ => Ok((reference::forward(x, weight, bias)?, Saved { moments: None })),
    }
}

/// Adds the gradients of weight and bias to their buffers and returns the gradient of `x`.
///
/// `x` and `weight` are the arguments of [`forward`], `saved` its second result, `dy` (…, d) the
/// gradient of its first.
pub fn backward(
    x: &Tensor,
    weight: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    d_weight: &mut GradBuffer,
    d_bias: &mut GradBuffer,
) -> Result<Tensor> {
    check(x, weight)?;
    if dy.dims() != x.dims() {
        candle_core::bail!(
            "layer_norm: expected a gradient of {:?}, found {:?}",
            x.dims(),
            dy.dims()
        );
    }
    match (x.dtype(), &saved.moments) {
        #[cfg(feature = "cuda")]
        (_, Some(moments)) if x.device().is_cuda() => cuda::backward(x, weight, moments, dy, d_weight, d_bias),
        (DType::F32, Some(moments)) => cpu::backward::<f32>(x, weight, moments, dy, d_weight, d_bias),
        (DType::F64, Some(moments)) => cpu::backward::<f64>(x, weight, moments, dy, d_weight, d_bias),
        _ => {
            let bias = weight.zeros_like()?; // its value does not influence any gradient
            let gradients = fallback::gradients(&[x, weight, &bias], &[Some(dy)], |inputs| {
                Ok(vec![reference::forward(&inputs[0], &inputs[1], &inputs[2])?])
            })?;
            d_weight.add(&gradients[1])?;
            d_bias.add(&gradients[2])?;
            Ok(gradients[0].clone())
        }
    }
}

fn check(x: &Tensor, weight: &Tensor) -> Result<usize> {
    let d = weight.dims1()?;
    if d == 0 || x.rank() == 0 || x.dim(D::Minus1)? != d {
        candle_core::bail!(
            "layer_norm: expected (…, {d}), {d} > 0, for a weight of [{d}], found {:?}",
            x.dims()
        );
    }
    Ok(d)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result};

    use super::*;
    use crate::check::Harness;
    use crate::op_test;

    /// Inputs x (shifted away from a mean of 0), weight and bias.
    macro_rules! check {
        ($($dim:expr),+; $d:expr) => {
            Harness::new("layer_norm", &[&[$($dim,)+ $d], &[$d], &[$d]])
                .wide(&[1, 2])
                .affine(0, 2.0, 1.5)
                .reference(|t| Ok(vec![reference::forward(&t[0], &t[1], &t[2])?]))
                .fused(|t| {
                    let (y, saved) = forward(&t[0], &t[1], &t[2])?;
                    Ok((vec![y], saved))
                })
                .backward(|t, saved, dy, grads| {
                    let [_, d_weight, d_bias] = grads else { unreachable!("three inputs") };
                    let dx = backward(&t[0], &t[1], &saved, dy[0], d_weight, d_bias)?;
                    Ok(vec![Some(dx), None, None])
                })
        };
    }

    op_test! {
        three_dimensions: check!(2, 3; 8)
        odd_width: check!(5; 19)
        wide: check!(2, 2, 1; 70)
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn several_blocks_on_cuda_equal_the_reference() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            check!(40, 130; 24).against_reference_on_cuda(dtype)?;
            check!(2, 3; 4096).against_reference_on_cuda(dtype)?;
            check!(2, 3; 9001).against_reference_on_cuda(dtype)?;
        }
        Ok(())
    }

    #[test]
    fn several_pieces_equal_the_reference() -> Result<()> {
        check!(3, 200; 131).against_reference(DType::F32, &Device::Cpu)?;
        check!(3, 200; 131).against_reference(DType::F64, &Device::Cpu)
    }

    #[test]
    fn a_large_mean_does_not_drown_the_variance() -> Result<()> {
        // 1000 ± 0.5: mean(x²) − mean(x)² would lose the variance in f32
        let x = Tensor::new(&[[999.5f32, 1000.5, 999.5, 1000.5]], &Device::Cpu)?;
        let (weight, bias) = (
            Tensor::ones(4, DType::F32, &Device::Cpu)?,
            Tensor::zeros(4, DType::F32, &Device::Cpu)?,
        );
        let y = forward(&x, &weight, &bias)?.0.to_vec2::<f32>()?;
        let expected = 0.5 / (0.25f32 + 1e-5).sqrt();
        for (found, sign) in y[0].iter().zip([-1.0, 1.0, -1.0, 1.0]) {
            assert!((found - sign * expected).abs() < 1e-6, "{y:?}");
        }
        Ok(())
    }

    #[test]
    fn nan_reaches_its_row_and_only_that() -> Result<()> {
        for bad in [f32::NAN, f32::INFINITY] {
            let x = Tensor::new(&[[1f32, 2.0, 3.0], [1.0, bad, 3.0]], &Device::Cpu)?;
            let (weight, bias) = (
                Tensor::ones(3, DType::F32, &Device::Cpu)?,
                Tensor::zeros(3, DType::F32, &Device::Cpu)?,
            );
            let (y, saved) = forward(&x, &weight, &bias)?;
            let (mut d_weight, mut d_bias) = (GradBuffer::zeros_like(&weight)?, GradBuffer::zeros_like(&bias)?);
            let dx = backward(&x, &weight, &saved, &x.ones_like()?, &mut d_weight, &mut d_bias)?;
            for tensor in [y, dx] {
                let rows = tensor.to_vec2::<f32>()?;
                assert!(rows[0].iter().all(|v| v.is_finite()), "{rows:?}");
                assert!(rows[1].iter().all(|v| v.is_nan()), "{rows:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_errors() -> Result<()> {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu);
        assert!(forward(&zeros(&[2, 3])?, &zeros(&[4])?, &zeros(&[4])?).is_err());
        assert!(forward(&zeros(&[2, 3])?, &zeros(&[3])?, &zeros(&[4])?).is_err());
        assert!(forward(&zeros(&[2, 0])?, &zeros(&[0])?, &zeros(&[0])?).is_err());
        Ok(())
    }
}
