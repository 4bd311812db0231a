//! Compares with the reference and finite differences, and one call with two.

use candle_core::{DType, Device, Result, Tensor};

use super::{Inputs, Output, Saved, backward, forward, reference};
use crate::check::Harness;
use crate::relative_error;
use crate::testing::uniform;
use crate::{GradBuffer, op_test};

/// The tensors u, delta, a_log, b, c, d, z and perhaps the initial state, as inputs.
fn inputs(t: &[Tensor]) -> Inputs<'_> {
    Inputs {
        u: &t[0],
        delta: &t[1],
        a_log: &t[2],
        b: &t[3],
        c: &t[4],
        d: &t[5],
        z: &t[6],
        initial: t.get(7),
    }
}

/// The gradients of [`inputs`], in their order; parameters give `None`, their gradients are in
/// `grads`.
fn gradients(
    t: &[Tensor],
    saved: Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    grads: &mut [GradBuffer],
) -> Result<Vec<Option<Tensor>>> {
    let [_, _, a_log, _, _, d, ..] = grads else {
        unreachable!("at least seven inputs")
    };
    let found = backward(&inputs(t), saved, dy, d_last, a_log, d)?;
    let mut all = vec![
        Some(found.d_u),
        Some(found.d_delta),
        None,
        Some(found.d_b),
        Some(found.d_c),
        None,
        Some(found.d_z),
    ];
    if t.len() > 7 {
        all.push(found.d_initial);
    } else {
        assert!(found.d_initial.is_none());
    }
    Ok(all)
}

macro_rules! check {
    (n $n:expr, t $t:expr, channels $channels:expr, state $state:expr $(, initial $batch:expr)?) => {
        Harness::new(
            "selective_scan",
            &[
                &[$n, $t, $channels],
                &[$n, $t, $channels],
                &[$channels, $state],
                &[$n, $t, $state],
                &[$n, $t, $state],
                &[$channels],
                &[$n, $t, $channels],
                $(&[$batch, $channels, $state],)?
            ],
        )
        .wide(&[2, 5, 7])
        .reference(|t| {
            let (y, last) = reference::forward(&inputs(t))?;
            Ok(vec![y, last])
        })
        .fused(|t| {
            let Output { y, last, saved } = forward(&inputs(t))?;
            Ok((vec![y, last], saved))
        })
        .backward(|t, saved, dy, grads| gradients(t, saved, dy[0], Some(dy[1]), grads))
    };
}

op_test! {
    zero_initial_state: check!(n 2, t 5, channels 3, state 4)
    own_initial_states: check!(n 2, t 4, channels 5, state 3, initial 2)
    shared_initial_state: check!(n 3, t 3, channels 4, state 2, initial 1)
    one_position: check!(n 2, t 1, channels 7, state 2, initial 1)
    two_segments: check!(n 1, t 35, channels 2, state 2, initial 1)
    two_blocks_of_channels: check!(n 1, t 2, channels 66, state 1, initial 1)
}

#[test]
fn larger_sizes_equal_the_reference() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        check!(n 2, t 100, channels 70, state 16, initial 2).against_reference(dtype, &Device::Cpu)?;
        check!(n 70, t 9, channels 130, state 3, initial 1).against_reference(dtype, &Device::Cpu)?;
        check!(n 33, t 8, channels 3, state 3, initial 33).against_reference(dtype, &Device::Cpu)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn larger_sizes_on_cuda_equal_the_reference() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        check!(n 2, t 100, channels 70, state 16, initial 2).against_reference_on_cuda(dtype)?;
        check!(n 40, t 9, channels 130, state 3, initial 1).against_reference_on_cuda(dtype)?;
        check!(n 2, t 70, channels 20, state 50, initial 1).against_reference_on_cuda(dtype)?;
        check!(n 1, t 64, channels 16, state 64).against_reference_on_cuda(dtype)?;
    }
    // more sequences than blocks along the sequences
    check!(n 600, t 17, channels 64, state 4, initial 1).against_reference_on_cuda(DType::F32)
}

#[test]
fn without_gradient_of_the_last_state() -> Result<()> {
    let check = Harness::new(
        "selective_scan",
        &[
            &[2, 3, 4],
            &[2, 3, 4],
            &[4, 2],
            &[2, 3, 2],
            &[2, 3, 2],
            &[4],
            &[2, 3, 4],
            &[1, 4, 2],
        ],
    )
    .reference(|t| Ok(vec![reference::forward(&inputs(t))?.0]))
    .fused(|t| {
        let Output { y, saved, .. } = forward(&inputs(t))?;
        Ok((vec![y], saved))
    })
    .backward(|t, saved, dy, grads| gradients(t, saved, dy[0], None, grads));
    check.against_reference(DType::F64, &Device::Cpu)?;
    check.finite_differences()
}

fn zeros(t: &[Tensor]) -> Result<Vec<GradBuffer>> {
    t.iter().map(GradBuffer::zeros_like).collect()
}

/// Whether input `index` has positions.
fn has_positions(index: usize) -> bool {
    matches!(index, 0 | 1 | 3 | 4 | 6)
}

/// y, last and every gradient, for positions cut at `border` into two calls.
///
/// The second call starts from the state of the first.
fn in_two_calls(t: &[Tensor], border: usize, dy: &Tensor, d_last: &Tensor) -> Result<Vec<Tensor>> {
    let rest = dy.dim(1)? - border;
    let mut first = t.to_vec();
    let mut second = t.to_vec();
    for index in (0..t.len()).filter(|index| has_positions(*index)) {
        first[index] = t[index].narrow(1, 0, border)?;
        second[index] = t[index].narrow(1, border, rest)?;
    }
    let one = forward(&inputs(&first))?;
    second[7] = one.last.clone();
    let two = forward(&inputs(&second))?;
    let mut grads = zeros(t)?;
    let dy2 = dy.narrow(1, border, rest)?;
    let g2 = gradients(&second, two.saved, &dy2, Some(d_last), &mut grads)?;
    let dy1 = dy.narrow(1, 0, border)?;
    let g1 = gradients(&first, one.saved, &dy1, g2[7].as_ref(), &mut grads)?;
    let mut all = vec![Tensor::cat(&[one.y, two.y], 1)?, two.last];
    for index in 0..t.len() {
        all.push(match (&g1[index], &g2[index]) {
            (Some(first), Some(second)) if has_positions(index) => Tensor::cat(&[first, second], 1)?,
            (Some(first), _) => first.clone(),
            _ => grads[index].tensor().clone(),
        });
    }
    Ok(all)
}

#[test]
fn two_calls_with_the_carried_state_equal_one() -> Result<()> {
    let (n, t, channels, state) = (2, 41, 5, 3);
    let shapes: [&[usize]; 8] = [
        &[n, t, channels],
        &[n, t, channels],
        &[channels, state],
        &[n, t, state],
        &[n, t, state],
        &[channels],
        &[n, t, channels],
        &[1, channels, state],
    ];
    let tensors: Vec<Tensor> = (1..)
        .zip(shapes)
        .map(|(seed, shape)| uniform(shape, seed))
        .collect::<Result<_>>()?;
    let dy = uniform(&[n, t, channels], 10)?;
    let d_last = uniform(&[n, channels, state], 11)?;
    let Output { y, last, saved } = forward(&inputs(&tensors))?;
    let mut grads = zeros(&tensors)?;
    let found = gradients(&tensors, saved, &dy, Some(&d_last), &mut grads)?;
    let found = found.into_iter().zip(&grads);
    let mut whole = vec![y, last];
    whole.extend(found.map(|(gradient, buffer)| gradient.unwrap_or_else(|| buffer.tensor().clone())));
    for border in [1, 7, 32, 40] {
        let parts = in_two_calls(&tensors, border, &dy, &d_last)?;
        assert_eq!(parts.len(), whole.len());
        for (index, (found, expected)) in parts.iter().zip(&whole).enumerate() {
            let error = relative_error(found, expected, 1e-6)?;
            assert!(error < 1e-12, "tensor {index}, cut at {border}: off by {error:.2e}");
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let good = [
        uniform(&[2, 40, 4], 1)?,
        uniform(&[2, 40, 4], 2)?,
        uniform(&[4, 3], 3)?,
        uniform(&[2, 40, 3], 4)?,
        uniform(&[2, 40, 3], 5)?,
        uniform(&[4], 6)?,
        uniform(&[2, 40, 4], 7)?,
        uniform(&[1, 4, 3], 8)?,
    ];
    let saved = forward(&inputs(&good))?.saved;
    for index in 0..good.len() {
        let mut bad = good.to_vec();
        bad[index] = bad[index].narrow(bad[index].rank() - 1, 0, 1)?;
        assert!(forward(&inputs(&bad)).is_err(), "input {index}");
    }
    let mut short = good.to_vec();
    for index in (0..good.len()).filter(|index| has_positions(*index)) {
        short[index] = good[index].narrow(1, 0, 20)?;
    }
    let dy = uniform(&[2, 20, 4], 9)?;
    assert!(gradients(&short, saved, &dy, None, &mut zeros(&good)?).is_err());
    Ok(())
}
