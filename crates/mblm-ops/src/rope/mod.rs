//! Rotary position embedding of whole vectors, in interleaved pairs.
//!
//! ```text
//! (y_2i, y_2i+1) = (x_2i cos φ - x_2i+1 sin φ,  x_2i+1 cos φ + x_2i sin φ)
//! φ = (start + row) · 10000^(-2i/d)                        x, y (n, t, d), d even
//! ```
//!
//! The rotation is orthogonal: its gradient is the inverse rotation. Source: Su et al., RoFormer,
//! arXiv 2104.09864, §3.2.2.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mblm_ops::rope;
//!
//! let x = Tensor::new(&[[[1f32, 0.0]]], &Device::Cpu)?; // (n, t, d) = (1, 1, 2)
//! let y = rope::forward(&x, 1)?.to_vec3::<f32>()?;
//! assert!((y[0][0][0] - 1f32.cos()).abs() < 1e-6 && (y[0][0][1] - 1f32.sin()).abs() < 1e-6);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod angles;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

pub(crate) use angles::Angles;

use candle_core::{DType, Result, Tensor};

/// Rotates the pairs of `x` (n, t, d) by the angles of positions `start..start + t`.
///
/// # Errors
/// An odd d.
pub fn forward(x: &Tensor, start: usize) -> Result<Tensor> {
    rotate(x, start, false)
}

/// The gradient of `x` from `dy`, the gradient of the result of [`forward`]; both (n, t, d).
///
/// `start` is the same as in [`forward`].
pub fn backward(dy: &Tensor, start: usize) -> Result<Tensor> {
    rotate(dy, start, true)
}

fn rotate(x: &Tensor, start: usize, back: bool) -> Result<Tensor> {
    let (_, _, d) = x.dims3()?;
    if !d.is_multiple_of(2) {
        candle_core::bail!("rope: expected an even number of channels, found {d}: choose an even model dimension");
    }
    if x.elem_count() == 0 {
        return x.zeros_like();
    }
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, start, back),
        (true, DType::F64) => cpu::forward::<f64>(x, start, back),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::rotate(x, start, back),
        _ => reference::forward(x, start, back),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Result, Tensor};

    use crate::check::{Check, Harness};
    use crate::testing::uniform;
    use crate::{GradBuffer, op_test, rope};

    /// Positions `start..start + t` of n sequences of d channels.
    #[expect(clippy::type_complexity, reason = "closures have no name that an alias could hold")]
    fn check(
        shape: [usize; 3],
        start: usize,
    ) -> Check<
        impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
        impl Fn(&[Tensor]) -> Result<(Vec<Tensor>, ())>,
        impl Fn(&[Tensor], (), &[&Tensor], &mut [GradBuffer]) -> Result<Vec<Option<Tensor>>>,
    > {
        Harness::new("rope", &[&shape])
            .reference(move |t| Ok(vec![rope::reference::forward(&t[0], start, false)?]))
            .fused(move |t| Ok((vec![rope::forward(&t[0], start)?], ())))
            .backward(move |_, (), dy, _| Ok(vec![Some(rope::backward(dy[0], start)?)]))
    }

    op_test! {
        one_pair: check([1, 3, 2], 0)
        odd_sizes: check([3, 5, 6], 2)
        later_positions: check([2, 67, 10], 1000)
    }

    #[test]
    fn the_first_position_stays_and_a_unit_vector_turns_by_one_radian_a_position() -> Result<()> {
        let x = Tensor::new(&[[[1f64, 0.0], [1.0, 0.0], [1.0, 0.0]]], &Device::Cpu)?;
        let y: Vec<f64> = rope::forward(&x, 0)?.flatten_all()?.to_vec1()?;
        let expected = [1.0, 0.0, 1f64.cos(), 1f64.sin(), 2f64.cos(), 2f64.sin()];
        for (found, expected) in y.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{y:?}");
        }
        Ok(())
    }

    #[test]
    fn an_odd_width_is_an_error_and_an_empty_tensor_is_not() -> Result<()> {
        assert!(rope::forward(&uniform(&[1, 2, 3], 1)?, 0).is_err());
        let empty = Tensor::zeros((0, 2, 4), DType::F32, &Device::Cpu)?;
        assert_eq!(rope::forward(&empty, 0)?.dims(), &[0, 2, 4]);
        Ok(())
    }
}
