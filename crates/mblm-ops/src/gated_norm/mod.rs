//! RMS norm of a gated vector, at the end of a Mamba2 mixer.
//!
//! ```text
//! u = y · silu(z),  silu(z) = z σ(z)      y, z (…, d)
//! out = u · f · w,  f = 1 / √(mean(u²) + 1e-5)      w (d)
//! du = f (w dout − c u),  c = f² mean(w dout u);   dy = du silu(z);   dz = du y σ(z) (1 + z (1 − σ(z)))
//! dw = Σ_rows dout u f
//! ```
//!
//! Source: arXiv 2405.21060, with the gate before the norm. Only `f` is kept for the backward pass.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::gated_norm;
//!
//! let y = Tensor::ones((1, 1, 4), DType::F32, &Device::Cpu)?;
//! let gain = Tensor::ones(4, DType::F32, &Device::Cpu)?;
//! let (out, _) = gated_norm::forward(&y, &y, &gain)?;
//! assert!(out.to_vec3::<f32>()?[0][0].iter().all(|x| (x - 1.0).abs() < 1e-4));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{D, DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// The factor of each row, (rows); absent if the reference implementation ran, which recomputes it.
#[derive(Clone, Debug)]
pub struct Saved {
    scale: Option<Tensor>,
}

/// RMSNorm(y · silu(z)) · gain, for `y` and `z` (…, d) and `gain` (d), eps 1e-5.
pub fn forward(y: &Tensor, z: &Tensor, gain: &Tensor) -> Result<(Tensor, Saved)> {
    check(y, z, gain)?;
    match (y.device().is_cpu(), y.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(y, z, gain),
        (true, DType::F64) => cpu::forward::<f64>(y, z, gain),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(y) => cuda::forward(y, z, gain),
        _ => Ok((reference::forward(y, z, gain)?, Saved { scale: None })),
    }
}

/// Adds the gradient of `gain` to its buffer and returns the gradients of `y` and `z`.
///
/// `y`, `z` and `gain` are the arguments of [`forward`], `saved` its second result, `d_out` (…, d)
/// the gradient of its first.
pub fn backward(
    y: &Tensor,
    z: &Tensor,
    gain: &Tensor,
    saved: &Saved,
    d_out: &Tensor,
    d_gain: &mut GradBuffer,
) -> Result<(Tensor, Tensor)> {
    check(y, z, gain)?;
    if d_out.dims() != y.dims() {
        candle_core::bail!(
            "gated_norm: expected a gradient of {:?}, found {:?}",
            y.dims(),
            d_out.dims()
        );
    }
    match (y.dtype(), &saved.scale) {
        #[cfg(feature = "cuda")]
        (_, Some(scale)) if cuda::takes(y) => cuda::backward(y, z, gain, scale, d_out, d_gain),
        (DType::F32, Some(scale)) => cpu::backward::<f32>(y, z, gain, scale, d_out, d_gain),
        (DType::F64, Some(scale)) => cpu::backward::<f64>(y, z, gain, scale, d_out, d_gain),
        _ => {
            let gradients = fallback::gradients(&[y, z, gain], &[Some(d_out)], |inputs| {
                Ok(vec![reference::forward(&inputs[0], &inputs[1], &inputs[2])?])
            })?;
            d_gain.add(&gradients[2])?;
            Ok((gradients[0].clone(), gradients[1].clone()))
        }
    }
}

fn check(y: &Tensor, z: &Tensor, gain: &Tensor) -> Result<()> {
    let d = gain.dims1()?;
    if d == 0 || y.rank() == 0 || y.dim(D::Minus1)? != d || y.dims() != z.dims() {
        candle_core::bail!(
            "gated_norm: expected y and z of one shape (…, {d}), {d} > 0, for a gain of [{d}], found {:?} and {:?}",
            y.dims(),
            z.dims()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result};

    use super::*;
    use crate::check::Harness;
    use crate::op_test;

    /// Inputs y, z (scaled to ±4, where silu bends) and gain.
    macro_rules! check {
        ($($dim:expr),+; $d:expr) => {
            Harness::new("gated_norm", &[&[$($dim,)+ $d], &[$($dim,)+ $d], &[$d]])
                .wide(&[2])
                .affine(1, 4.0, 0.0)
                .reference(|t| Ok(vec![reference::forward(&t[0], &t[1], &t[2])?]))
                .fused(|t| {
                    let (out, saved) = forward(&t[0], &t[1], &t[2])?;
                    Ok((vec![out], saved))
                })
                .backward(|t, saved, dy, grads| {
                    let (d_y, d_z) = backward(&t[0], &t[1], &t[2], &saved, dy[0], &mut grads[2])?;
                    Ok(vec![Some(d_y), Some(d_z), None])
                })
        };
    }

    op_test! {
        three_dimensions: check!(2, 3; 8)
        odd_width: check!(5; 19)
        one_channel: check!(3, 2; 1)
        wide: check!(2; 70)
    }

    #[test]
    fn several_pieces_equal_the_reference() -> Result<()> {
        check!(3, 200; 131).against_reference(DType::F32, &Device::Cpu)?;
        check!(3, 200; 131).against_reference(DType::F64, &Device::Cpu)
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn several_blocks_on_cuda_equal_the_reference() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            check!(3, 500; 2048).against_reference_on_cuda(dtype)?;
            check!(300, 11; 131).against_reference_on_cuda(dtype)?;
            check!(5; 4104).against_reference_on_cuda(dtype)?;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_gate_that_is_part_of_wider_rows_on_cuda() -> Result<()> {
        let device = crate::cuda::device(0)?;
        let tensor = |dims: &[usize], seed| {
            crate::testing::uniform(dims, seed)?
                .to_dtype(DType::F32)?
                .to_device(&device)
        };
        let (y, gain, wide) = (tensor(&[3, 5, 16], 1)?, tensor(&[16], 2)?, tensor(&[3, 5, 40], 3)?);
        for first in [8, 3] {
            let z = wide.narrow(2, first, 16)?;
            let run = |z: &Tensor| -> Result<[Tensor; 4]> {
                let mut d_gain = GradBuffer::zeros_like(&gain)?;
                let (out, saved) = forward(&y, z, &gain)?;
                let (d_y, d_z) = backward(&y, z, &gain, &saved, &y, &mut d_gain)?;
                Ok([out, d_y, d_z, d_gain.tensor().clone()])
            };
            for (part, copy) in run(&z)?.iter().zip(&run(&z.contiguous()?)?) {
                assert!(crate::relative_error(part, copy, 1e-6)? < 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn nan_reaches_its_row_and_only_that() -> Result<()> {
        let mut values = vec![1f32; 6];
        values[4] = f32::NAN;
        let bad = Tensor::from_vec(values, (2, 3), &Device::Cpu)?;
        let good = Tensor::ones((2, 3), DType::F32, &Device::Cpu)?;
        let gain = Tensor::ones(3, DType::F32, &Device::Cpu)?;
        for (y, z) in [(&bad, &good), (&good, &bad)] {
            let (out, saved) = forward(y, z, &gain)?;
            let mut d_gain = GradBuffer::zeros_like(&gain)?;
            let (d_y, d_z) = backward(y, z, &gain, &saved, &good, &mut d_gain)?;
            for tensor in [out, d_y, d_z] {
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
        assert!(forward(&zeros(&[2, 3])?, &zeros(&[2, 3])?, &zeros(&[4])?).is_err());
        assert!(forward(&zeros(&[2, 3])?, &zeros(&[3, 3])?, &zeros(&[3])?).is_err());
        assert!(forward(&zeros(&[2, 0])?, &zeros(&[2, 0])?, &zeros(&[0])?).is_err());
        Ok(())
    }
}
