//! Checks the norm against its reference implementation and finite differences.
//!
//! With and without shift, addition and shared states.

use candle_core::{DType, Device, Result, Tensor};

use super::*;
use crate::check::Harness;
use crate::op_test;
use crate::testing::uniform;

/// Inputs x, delta, gain, previous; outputs residual, normed, last row.
macro_rules! shifted {
    ($norm:expr, $n:expr, $t:expr, $d:expr, $states:expr) => {
        Harness::new("add_norm", &[&[$n, $t, $d], &[$n, $t, $d], &[$d], &[$states, 1, $d]])
            .wide(&[2])
            .reference(|t| {
                let (residual, normed) = reference::forward(&t[0], Some(&t[1]), &t[2], $norm, Some(&t[3]))?;
                let last = residual.narrow(1, $t - 1, 1)?;
                Ok(vec![residual, normed, last])
            })
            .fused(|t| {
                let out = forward(&t[0], Some(&t[1]), &t[2], $norm, Some(&t[3]))?;
                let last = out.residual.narrow(1, $t - 1, 1)?;
                Ok((vec![out.residual.clone(), out.normed, last], (out.residual, out.saved)))
            })
            .backward(|t, (residual, saved), dy, grads| {
                let g = backward(
                    &residual,
                    &t[2],
                    $norm,
                    Some(&t[3]),
                    &saved,
                    dy[1],
                    Some(dy[0]),
                    Some(dy[2]),
                    &mut grads[2],
                )?;
                Ok(vec![Some(g.d_x.clone()), Some(g.d_x), None, g.d_previous])
            })
    };
}

op_test! {
    shifted_clamped: shifted!(Norm::Clamped, 2, 3, 6, 2)
    shifted_eps: shifted!(Norm::Eps, 2, 3, 6, 2)
    odd_width: shifted!(Norm::Clamped, 3, 2, 7, 3)
    one_channel: shifted!(Norm::Eps, 2, 3, 1, 2)
    one_position: shifted!(Norm::Clamped, 4, 1, 5, 4)
    shared_previous: shifted!(Norm::Clamped, 5, 3, 6, 1)
    one_sequence: shifted!(Norm::Eps, 1, 9, 18, 1)
}

// x and gain only: nothing added, nothing shifted, no gradient along the residual stream
op_test! {
    plain: Harness::new("add_norm", &[&[2, 3, 37], &[37]])
        .wide(&[1])
        .reference(|t| Ok(vec![reference::forward(&t[0], None, &t[1], Norm::Clamped, None)?.1]))
        .fused(|t| {
            let out = forward(&t[0], None, &t[1], Norm::Clamped, None)?;
            Ok((vec![out.normed], (out.residual, out.saved)))
        })
        .backward(|t, (residual, saved), dy, grads| {
            let g = backward(&residual, &t[1], Norm::Clamped, None, &saved, dy[0], None, None, &mut grads[1])?;
            assert!(g.d_previous.is_none());
            Ok(vec![Some(g.d_x), None])
        })
    // rows of about 1e-9: below the clamp, where the norm is linear
    clamped_rows: Harness::new("add_norm", &[&[2, 3, 6], &[6]])
        .wide(&[1])
        .reference(|t| Ok(vec![reference::forward(&(&t[0] * 1e-9)?, None, &t[1], Norm::Clamped, None)?.1]))
        .fused(|t| {
            let out = forward(&(&t[0] * 1e-9)?, None, &t[1], Norm::Clamped, None)?;
            Ok((vec![out.normed], (out.residual, out.saved)))
        })
        .backward(|t, (residual, saved), dy, grads| {
            let g = backward(&residual, &t[1], Norm::Clamped, None, &saved, dy[0], None, None, &mut grads[1])?;
            Ok(vec![Some((g.d_x * 1e-9)?), None])
        })
}

/// More rows than one piece holds, so that pieces begin and end inside sequences.
#[test]
fn pieces_meet_inside_sequences() -> Result<()> {
    for (n, t, states) in [(2, 400, 2), (150, 5, 1)] {
        let check = shifted!(Norm::Clamped, n, t, 131, states);
        check.against_reference(DType::F64, &Device::Cpu)?;
        check.against_reference(DType::F32, &Device::Cpu)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn runs_of_rows_on_cuda_equal_the_reference() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        for (n, t, d, states) in [
            (700, 8, 64, 1),
            (700, 7, 48, 700),
            (1, 5000, 32, 1),
            (3, 33, 1040, 3),
            (2, 3, 9008, 1),
        ] {
            shifted!(Norm::Clamped, n, t, d, states).against_reference_on_cuda(dtype)?;
            shifted!(Norm::Eps, n, t, d, states).against_reference_on_cuda(dtype)?;
        }
    }
    Ok(())
}

#[test]
fn rows_of_zeros_have_finite_gradients() -> Result<()> {
    let x = Tensor::zeros((1, 2, 4), DType::F32, &Device::Cpu)?;
    let gain = Tensor::ones(4, DType::F32, &Device::Cpu)?;
    let out = forward(&x, None, &gain, Norm::Clamped, None)?;
    let mut d_gain = GradBuffer::zeros_like(&gain)?;
    let dy = Tensor::ones_like(&x)?;
    let g = backward(&x, &gain, Norm::Clamped, None, &out.saved, &dy, None, None, &mut d_gain)?;
    assert_eq!(out.normed.flatten_all()?.to_vec1::<f32>()?, [0.0; 8]);
    for d in g.d_x.flatten_all()?.to_vec1::<f32>()? {
        assert!((d - 1e8).abs() < 100.0, "{d}");
    }
    Ok(())
}

#[test]
fn nan_reaches_its_rows_and_only_those() -> Result<()> {
    let mut values = vec![1f32; 2 * 4 * 4];
    values[4 + 3] = f32::NAN; // sequence 0, position 1, a channel that the shift moves to position 2
    let x = Tensor::from_vec(values, (2, 4, 4), &Device::Cpu)?;
    let (gain, previous) = (
        Tensor::ones(4, DType::F32, &Device::Cpu)?,
        Tensor::ones((1, 1, 4), DType::F32, &Device::Cpu)?,
    );
    for norm in [Norm::Clamped, Norm::Eps] {
        let out = forward(&x, None, &gain, norm, Some(&previous))?;
        let rows = out.normed.flatten_to(1)?.to_vec2::<f32>()?;
        for (row, values) in rows.iter().enumerate() {
            assert!(values.iter().all(|v| v.is_nan() == (row == 2)), "row {row}: {values:?}");
        }
        let mut d_gain = GradBuffer::zeros_like(&gain)?;
        let dy = Tensor::ones_like(&x)?;
        let g = backward(
            &x,
            &gain,
            norm,
            Some(&previous),
            &out.saved,
            &dy,
            None,
            None,
            &mut d_gain,
        )?;
        assert!(g.d_x.sum_all()?.to_scalar::<f32>()?.is_nan());
        assert!(d_gain.tensor().sum_all()?.to_scalar::<f32>()?.is_nan());
    }
    Ok(())
}

#[test]
fn layouts_other_than_contiguous_give_the_same() -> Result<()> {
    let x = uniform(&[2, 6, 5], 1)?;
    let (gain, strided) = (uniform(&[6], 2)?, x.transpose(1, 2)?);
    let a = forward(&strided, Some(&strided), &gain, Norm::Eps, None)?;
    let copied = strided.contiguous()?;
    let b = forward(&copied, Some(&copied), &gain, Norm::Eps, None)?;
    assert_eq!(
        a.normed.flatten_all()?.to_vec1::<f64>()?,
        b.normed.flatten_all()?.to_vec1::<f64>()?
    );
    Ok(())
}

#[test]
fn wrong_shapes_are_errors_that_name_them() -> Result<()> {
    let (x, gain) = (uniform(&[2, 3, 4], 1)?, uniform(&[5], 2)?);
    let message = forward(&x, None, &gain, Norm::Eps, None).unwrap_err().to_string();
    assert!(message.contains("[4]") && message.contains("[5]"), "{message}");
    let gain = uniform(&[4], 2)?;
    assert!(forward(&x, Some(&gain), &gain, Norm::Eps, None).is_err());
    assert!(forward(&x, None, &gain, Norm::Eps, Some(&uniform(&[3, 1, 4], 3)?)).is_err());
    assert!(forward(&uniform(&[2, 0, 4], 1)?, None, &gain, Norm::Eps, None).is_err());
    Ok(())
}
