//! Depthwise causal convolution with bias over the positions, then SiLU.
//!
//! ```text
//! e = [tail | x]                                        the k - 1 rows before the first, then x
//! p_i = bias + Σ_j weight[:, 0, j] ⊙ e_{i+j}            j = 0 … k-1: the last tap meets x_i itself
//! y_i = p_i · σ(p_i)
//! new tail = the last k - 1 rows of e
//! x (n, t, c), weight (c, 1, k), bias (c), tail (n or 1, k-1, c), y (n, t, c)
//! ```
//!
//! Without a tail, the rows before the first are zeros. A tail of batch 1 is shared by all
//! sequences. Nothing is saved: the backward pass recomputes p.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::conv_silu;
//!
//! let x = Tensor::ones((1, 5, 2), DType::F32, &Device::Cpu)?; // (n, t, d)
//! let weight = Tensor::ones((2, 1, 4), DType::F32, &Device::Cpu)?; // (d, 1, taps)
//! let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
//! let (y, tail) = conv_silu::forward(&x, &weight, &bias, None)?;
//! assert_eq!(y.dims(), [1, 5, 2]);
//! assert_eq!(tail.dims(), [1, 3, 2]); // the last rows, for the next call
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

use crate::{GradBuffer, fallback};

/// Most taps for which CUDA devices have kernels.
pub const MAX_TAPS_ON_CUDA: usize = 4;

/// Returns y (n, t, c) and the new tail (n, k - 1, c), to be passed with the positions that follow.
///
/// `x` (n, t, c), `weight` (c, 1, k), `bias` (c), `tail` (n or 1, k - 1, c).
///
/// # Errors
/// Shapes that do not match.
pub fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, tail: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    check(x, weight, bias, tail)?;
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(x, weight, bias, tail),
        (true, DType::F64) => cpu::forward::<f64>(x, weight, bias, tail),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(x, weight) => cuda::forward(x, weight, bias, tail),
        _ => reference::forward(x, weight, bias, tail),
    }
}

/// Adds the gradients of weight and bias to their buffers; returns the gradients of `x` and `tail`.
///
/// The tail's gradient has the tail's shape and is summed over the sequences if they share it. The
/// first four arguments are those of [`forward`]; `dy` (n, t, c) and `d_new_tail` (n, k - 1, c) are
/// the gradients of its results.
pub fn backward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    tail: Option<&Tensor>,
    dy: &Tensor,
    d_new_tail: Option<&Tensor>,
    d_weight: &mut GradBuffer,
    d_bias: &mut GradBuffer,
) -> Result<(Tensor, Option<Tensor>)> {
    check(x, weight, bias, tail)?;
    check_gradients(x, weight, dy, d_new_tail)?;
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::backward::<f32>(x, weight, bias, tail, dy, d_new_tail, d_weight, d_bias),
        (true, DType::F64) => cpu::backward::<f64>(x, weight, bias, tail, dy, d_new_tail, d_weight, d_bias),
        #[cfg(feature = "cuda")]
        _ if cuda::takes(x, weight) => cuda::backward(x, weight, bias, tail, dy, d_new_tail, d_weight, d_bias),
        _ => {
            let mut inputs = vec![x, weight, bias];
            inputs.extend(tail);
            let mut gradients = fallback::gradients(&inputs, &[Some(dy), d_new_tail], |inputs| {
                let (y, tail) = reference::forward(&inputs[0], &inputs[1], &inputs[2], inputs.get(3))?;
                Ok(vec![y, tail])
            })?;
            let d_tail = if tail.is_some() { gradients.pop() } else { None };
            d_bias.add(&gradients[2])?;
            d_weight.add(&gradients[1])?;
            Ok((gradients[0].clone(), d_tail))
        }
    }
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, tail: Option<&Tensor>) -> Result<()> {
    let (n, _, c) = x.dims3()?;
    let (channels, one, kernel) = weight.dims3()?;
    if c == 0 || channels != c || one != 1 || kernel == 0 {
        candle_core::bail!(
            "conv_silu: expected a weight of ({c}, 1, k) for an input of {:?}, found {:?}",
            x.dims(),
            weight.dims()
        );
    }
    if bias.dims() != [c] {
        candle_core::bail!("conv_silu: expected a bias of ({c}), found {:?}", bias.dims());
    }
    if let Some(tail) = tail
        && tail.dims() != [n, kernel - 1, c]
        && tail.dims() != [1, kernel - 1, c]
    {
        candle_core::bail!(
            "conv_silu: expected a tail of ({n} or 1, {}, {c}), found {:?}; pass the tail that forward returned",
            kernel - 1,
            tail.dims()
        );
    }
    Ok(())
}

fn check_gradients(x: &Tensor, weight: &Tensor, dy: &Tensor, d_new_tail: Option<&Tensor>) -> Result<()> {
    let (n, _, c) = x.dims3()?;
    let tail = [n, weight.dim(2)? - 1, c];
    if dy.dims() != x.dims() {
        candle_core::bail!(
            "conv_silu: a gradient of {:?} for an output of {:?}",
            dy.dims(),
            x.dims()
        );
    }
    match d_new_tail {
        Some(d) if d.dims() != tail => {
            candle_core::bail!("conv_silu: a gradient of {:?} for a new tail of {tail:?}", d.dims())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Result, Tensor};

    use crate::check::Harness;
    use crate::relative_error;
    use crate::testing::uniform;
    use crate::{GradBuffer, conv_silu, op_test};

    macro_rules! with_tail {
        ($n:expr, $t:expr, $c:expr, $k:expr, $batch:expr) => {
            Harness::new(
                "conv_silu",
                &[&[$n, $t, $c], &[$c, 1, $k], &[$c], &[$batch, $k - 1, $c]],
            )
            .wide(&[1, 2])
            .reference(|t| {
                let (y, tail) = conv_silu::reference::forward(&t[0], &t[1], &t[2], Some(&t[3]))?;
                Ok(vec![y, tail])
            })
            .fused(|t| {
                let (y, tail) = conv_silu::forward(&t[0], &t[1], &t[2], Some(&t[3]))?;
                Ok((vec![y, tail], ()))
            })
            .backward(|t, (), dy, grads| {
                let [_, dw, db, _] = grads else {
                    unreachable!("four inputs")
                };
                let (dx, d_tail) = conv_silu::backward(&t[0], &t[1], &t[2], Some(&t[3]), dy[0], Some(dy[1]), dw, db)?;
                Ok(vec![Some(dx), None, None, d_tail])
            })
        };
    }

    op_test! {
        own_tails: with_tail!(3, 7, 5, 4, 3)
        shared_tail: with_tail!(3, 5, 19, 4, 1)
        fewer_positions_than_taps: with_tail!(2, 2, 3, 4, 2)
        one_position: with_tail!(2, 1, 17, 3, 1)
    }

    op_test! {
        without_tail: Harness::new("conv_silu", &[&[2, 9, 6], &[6, 1, 4], &[6]])
            .wide(&[1, 2])
            .reference(|t| Ok(vec![conv_silu::reference::forward(&t[0], &t[1], &t[2], None)?.0]))
            .fused(|t| Ok((vec![conv_silu::forward(&t[0], &t[1], &t[2], None)?.0], ())))
            .backward(|t, (), dy, grads| {
                let [_, dw, db] = grads else { unreachable!("three inputs") };
                let (dx, d_tail) = conv_silu::backward(&t[0], &t[1], &t[2], None, dy[0], None, dw, db)?;
                assert!(d_tail.is_none());
                Ok(vec![Some(dx), None, None])
            })
    }

    #[test]
    fn long_inputs_equal_the_reference_across_pieces() -> Result<()> {
        with_tail!(70, 9, 3, 4, 1).against_reference(DType::F64, &Device::Cpu)?;
        with_tail!(2, 300, 3, 2, 2).against_reference(DType::F64, &Device::Cpu)
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn several_runs_on_cuda_equal_the_reference() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            with_tail!(3, 301, 264, 4, 3).against_reference_on_cuda(dtype)?;
            with_tail!(2, 16, 37, 3, 1).against_reference_on_cuda(dtype)?;
            with_tail!(300, 9, 40, 4, 1).against_reference_on_cuda(dtype)?;
            with_tail!(2, 70, 16, 2, 2).against_reference_on_cuda(dtype)?;
        }
        Ok(())
    }

    /// Some columns of `wide`, like the slices of packed projections.
    #[cfg(feature = "cuda")]
    fn part_of(wide: &Tensor, first: usize, width: usize) -> Result<Tensor> {
        wide.to_dtype(DType::F32)?
            .to_device(&crate::cuda::device(0)?)?
            .narrow(2, first, width)
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn parts_of_wider_rows_give_what_copies_give_on_cuda() -> Result<()> {
        for (first, width) in [(8, 16), (3, 16)] {
            let x = part_of(&uniform(&[2, 40, 32], 1)?, first, width)?;
            let device = x.device();
            let parameter = |shape: &[usize], seed| uniform(shape, seed)?.to_dtype(DType::F32)?.to_device(device);
            let (w, b) = (parameter(&[16, 1, 4], 2)?, parameter(&[16], 3)?);
            let dy = x.affine(0.5, 0.25)?;
            let run = |x: &Tensor| -> Result<[Tensor; 5]> {
                let (mut dw, mut db) = (GradBuffer::zeros_like(&w)?, GradBuffer::zeros_like(&b)?);
                let (y, tail) = conv_silu::forward(x, &w, &b, None)?;
                let (dx, _) = conv_silu::backward(x, &w, &b, None, &dy, None, &mut dw, &mut db)?;
                Ok([y, tail, dx, dw.tensor().clone(), db.tensor().clone()])
            };
            for (part, copy) in run(&x)?.iter().zip(&run(&x.contiguous()?)?) {
                assert!(relative_error(part, copy, 1e-6)? < 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn a_kernel_of_one_tap_has_an_empty_tail() -> Result<()> {
        let (x, w, b) = (uniform(&[2, 3, 4], 1)?, uniform(&[4, 1, 1], 2)?, uniform(&[4], 3)?);
        let (y, tail) = conv_silu::forward(&x, &w, &b, None)?;
        let expected = conv_silu::reference::forward(&x, &w, &b, None)?.0;
        assert_eq!(tail.dims(), [2, 0, 4]);
        assert!(relative_error(&y, &expected, 1e-6)? < 1e-12);
        Ok(())
    }

    /// Values and gradients of `[y, new tail]`, with the positions cut at `border` into two calls.
    fn in_two_calls(t: &[Tensor], border: usize, dy: &Tensor, d_tail: &Tensor) -> Result<Vec<Tensor>> {
        let [x, w, b, tail] = t else {
            unreachable!("four inputs")
        };
        let rest = x.dim(1)? - border;
        let (first, second) = (x.narrow(1, 0, border)?, x.narrow(1, border, rest)?);
        let (y1, middle) = conv_silu::forward(&first, w, b, Some(tail))?;
        let (y2, last) = conv_silu::forward(&second, w, b, Some(&middle))?;
        let (mut dw, mut db) = (GradBuffer::zeros_like(w)?, GradBuffer::zeros_like(b)?);
        let dy2 = dy.narrow(1, border, rest)?;
        let (dx2, d_middle) = conv_silu::backward(&second, w, b, Some(&middle), &dy2, Some(d_tail), &mut dw, &mut db)?;
        let dy1 = dy.narrow(1, 0, border)?;
        let (dx1, d_first) = conv_silu::backward(&first, w, b, Some(tail), &dy1, d_middle.as_ref(), &mut dw, &mut db)?;
        Ok(vec![
            Tensor::cat(&[y1, y2], 1)?,
            last,
            Tensor::cat(&[dx1, dx2], 1)?,
            d_first.expect("a tail was given"),
            dw.tensor().clone(),
            db.tensor().clone(),
        ])
    }

    #[test]
    fn two_calls_with_the_carried_tail_equal_one() -> Result<()> {
        let t = [
            uniform(&[2, 9, 5], 1)?,
            uniform(&[5, 1, 4], 2)?,
            uniform(&[5], 3)?,
            uniform(&[1, 3, 5], 4)?,
        ];
        let (dy, d_tail) = (uniform(&[2, 9, 5], 5)?, uniform(&[2, 3, 5], 6)?);
        let (y, last) = conv_silu::forward(&t[0], &t[1], &t[2], Some(&t[3]))?;
        let (mut dw, mut db) = (GradBuffer::zeros_like(&t[1])?, GradBuffer::zeros_like(&t[2])?);
        let (dx, d_first) =
            conv_silu::backward(&t[0], &t[1], &t[2], Some(&t[3]), &dy, Some(&d_tail), &mut dw, &mut db)?;
        let d_first = d_first.expect("a tail was given");
        let whole = [y, last, dx, d_first, dw.tensor().clone(), db.tensor().clone()];
        for border in [1, 2, 5, 8] {
            for (index, (found, expected)) in in_two_calls(&t, border, &dy, &d_tail)?.iter().zip(&whole).enumerate() {
                let error = relative_error(found, expected, 1e-6)?;
                assert!(error < 1e-12, "tensor {index}, cut at {border}: off by {error:.2e}");
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() -> Result<()> {
        let (x, w, b) = (uniform(&[2, 3, 4], 1)?, uniform(&[4, 1, 3], 2)?, uniform(&[4], 3)?);
        assert!(conv_silu::forward(&x, &w, &b, Some(&uniform(&[3, 2, 4], 4)?)).is_err());
        assert!(conv_silu::forward(&x, &w, &uniform(&[5], 4)?, None).is_err());
        assert!(conv_silu::forward(&x, &uniform(&[5, 1, 3], 4)?, &b, None).is_err());
        Ok(())
    }
}
