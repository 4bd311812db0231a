//! Compares with the reference and finite differences, one call with two, recurrence with chunks.

use candle_core::{DType, Device, Result, Tensor};

use super::{Inputs, Output, ParameterGradients, Saved, Ssd, backward, forward, reference};
use crate::check::Harness;
use crate::relative_error;
use crate::testing::uniform;
use crate::{GradBuffer, op_test};

/// The tensors xbc, dt, a_log, d, dt_bias and perhaps the initial state, as inputs.
fn inputs(t: &[Tensor]) -> Inputs<'_> {
    Inputs {
        xbc: &t[0],
        dt: &t[1],
        a_log: &t[2],
        d: &t[3],
        dt_bias: &t[4],
        initial: t.get(5),
    }
}

/// The gradients of [`inputs`], in their order; parameters give `None`, their gradients are in
/// `grads`.
fn gradients(
    s: &Ssd,
    t: &[Tensor],
    saved: Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    grads: &mut [GradBuffer],
) -> Result<Vec<Option<Tensor>>> {
    let [_, _, a_log, d, dt_bias, ..] = grads else {
        unreachable!("at least five inputs")
    };
    let found = backward(
        s,
        &inputs(t),
        saved,
        dy,
        d_last,
        ParameterGradients { a_log, d, dt_bias },
    )?;
    let mut all = vec![Some(found.d_xbc), Some(found.d_dt), None, None, None];
    if t.len() > 5 {
        all.push(found.d_initial);
    } else {
        assert!(found.d_initial.is_none());
    }
    Ok(all)
}

macro_rules! check {
    ($s:expr, n $n:expr, t $t:expr $(, initial $batch:expr)? $(, moved $moved:tt)*) => {{
        let s: Ssd = $s;
        let (heads, channels) = (s.heads, s.heads * s.head_dim + 2 * s.state);
        Harness::new(
            "ssd",
            &[
                &[$n, $t, channels],
                &[$n, $t, heads],
                &[heads],
                &[heads],
                &[heads],
                $(&[$batch, heads, s.head_dim, s.state],)?
            ],
        )
        .wide(&[2, 3, 4, 5])
        $(.affine $moved)*
        .reference(move |t| {
            let (y, last) = reference::forward(&s, &inputs(t))?;
            Ok(vec![y, last])
        })
        .fused(move |t| {
            let Output { y, last, saved } = forward(&s, &inputs(t))?;
            Ok((vec![y, last], saved))
        })
        .backward(move |t, saved, dy, grads| gradients(&s, t, saved, dy[0], Some(dy[1]), grads))
    }};
}

const SMALL: Ssd = Ssd {
    heads: 2,
    head_dim: 3,
    state: 5,
    chunk: 4,
};

op_test! {
    zero_initial_state: check!(SMALL, n 2, t 8)
    own_initial_states: check!(SMALL, n 2, t 11, initial 2)
    shared_initial_state: check!(SMALL, n 3, t 9, initial 1)
    one_chunk: check!(Ssd { chunk: 64, ..SMALL }, n 2, t 7, initial 1)
    one_position: check!(SMALL, n 2, t 1, initial 1)
    decode_of_four: check!(SMALL, n 2, t 4, initial 2)
    chunks_of_one: check!(Ssd { chunk: 1, ..SMALL }, n 1, t 3, initial 1)
    one_head: check!(Ssd { heads: 1, head_dim: 5, state: 2, chunk: 3 }, n 1, t 7, initial 1)
}

#[test]
fn larger_sizes_equal_the_reference() -> Result<()> {
    let s = Ssd {
        heads: 3,
        head_dim: 16,
        state: 20,
        chunk: 16,
    };
    for dtype in [DType::F32, DType::F64] {
        check!(s, n 2, t 50, initial 1).against_reference(dtype, &Device::Cpu)?;
        check!(s, n 20, t 6, initial 1).against_reference(dtype, &Device::Cpu)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn larger_sizes_on_cuda_equal_the_reference() -> Result<()> {
    let s = |heads, head_dim, state| Ssd {
        heads,
        head_dim,
        state,
        chunk: 64,
    };
    for dtype in [DType::F32, DType::BF16] {
        check!(s(3, 64, 128), n 2, t 200, initial 1).against_reference_on_cuda(dtype)?;
        check!(s(5, 64, 64), n 1, t 128, initial 1).against_reference_on_cuda(dtype)?;
        check!(s(34, 16, 24), n 2, t 65).against_reference_on_cuda(dtype)?;
        check!(s(2, 33, 77), n 3, t 150, initial 3).against_reference_on_cuda(dtype)?;
        check!(s(2, 64, 128), n 3, t 3, initial 3).against_reference_on_cuda(dtype)?;
    }
    Ok(())
}

/// Decays like those of a trained model: A in -1 … -16, Δ in 0.001 … 0.1.
#[cfg(feature = "cuda")]
#[test]
fn long_memory_on_cuda_equals_the_reference() -> Result<()> {
    let s = Ssd {
        heads: 4,
        head_dim: 64,
        state: 128,
        chunk: 64,
    };
    for dtype in [DType::F32, DType::BF16] {
        check!(s, n 1, t 300, initial 1, moved (2, 1.4, 1.4), moved (4, 2.3, -4.6)).against_reference_on_cuda(dtype)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn strong_decay_on_cuda_keeps_the_precision_of_f32() -> Result<()> {
    check!(SMALL, n 1, t 150, initial 1, moved (2, 0.5, 3.5), moved (4, 1.0, 3.0)).against_reference_on_cuda(DType::F32)
}

/// Slices of wider rows, aligned and not.
#[cfg(feature = "cuda")]
#[test]
fn parts_of_wider_rows_give_what_copies_give_on_cuda() -> Result<()> {
    let s = Ssd {
        heads: 2,
        head_dim: 16,
        state: 8,
        chunk: 64,
    };
    let device = crate::cuda::device(0)?;
    let tensor = |shape: &[usize], seed| uniform(shape, seed)?.to_dtype(DType::F32)?.to_device(&device);
    let wide = tensor(&[2, 70, 96], 1)?;
    let dy = tensor(&[2, 70, 64], 2)?.narrow(2, 8, 32)?;
    for first in [8, 3] {
        let mut t = vec![wide.narrow(2, first, 48)?, wide.narrow(2, 90, 2)?];
        for seed in 3..6 {
            t.push(tensor(&[2], seed)?);
        }
        let run = |t: &[Tensor], dy: &Tensor| -> Result<Vec<Tensor>> {
            let Output { y, last, saved } = forward(&s, &inputs(t))?;
            let mut grads = zeros(t)?;
            let found = gradients(&s, t, saved, dy, None, &mut grads)?;
            let found = found.into_iter().zip(&grads);
            let mut all = vec![y, last];
            all.extend(found.map(|(gradient, buffer)| gradient.unwrap_or_else(|| buffer.tensor().clone())));
            Ok(all)
        };
        let copies: Vec<Tensor> = t.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        for (part, copy) in run(&t, &dy)?.iter().zip(&run(&copies, &dy.contiguous()?)?) {
            assert!(relative_error(part, copy, 1e-6)? < 1e-6);
        }
    }
    Ok(())
}

#[test]
fn strong_decay_keeps_the_precision_of_f32() -> Result<()> {
    // ΔA of about -100 per position: sums over a chunk reach thousands, and most factors vanish
    let s = Ssd { chunk: 32, ..SMALL };
    check!(s, n 1, t 64, initial 1, moved (2, 0.5, 3.5), moved (4, 1.0, 3.0))
        .against_reference(DType::F32, &Device::Cpu)
}

#[test]
fn without_gradient_of_the_last_state() -> Result<()> {
    for batch in [1, 2] {
        let s = SMALL;
        let channels = s.heads * s.head_dim + 2 * s.state;
        let state = [batch, s.heads, s.head_dim, s.state];
        let check = Harness::new(
            "ssd",
            &[
                &[2, 6, channels],
                &[2, 6, s.heads],
                &[s.heads],
                &[s.heads],
                &[s.heads],
                &state,
            ],
        )
        .reference(move |t| Ok(vec![reference::forward(&s, &inputs(t))?.0]))
        .fused(move |t| {
            let Output { y, saved, .. } = forward(&s, &inputs(t))?;
            Ok((vec![y], saved))
        })
        .backward(move |t, saved, dy, grads| gradients(&s, t, saved, dy[0], None, grads));
        check.against_reference(DType::F64, &Device::Cpu)?;
        check.finite_differences()?;
    }
    Ok(())
}

fn zeros(t: &[Tensor]) -> Result<Vec<GradBuffer>> {
    t.iter().map(GradBuffer::zeros_like).collect()
}

/// y, last and every gradient, for positions cut at `border` into two calls.
///
/// The second call starts from the state of the first.
fn in_two_calls(s: &Ssd, t: &[Tensor], border: usize, dy: &Tensor, d_last: &Tensor) -> Result<Vec<Tensor>> {
    let rest = dy.dim(1)? - border;
    let mut first = t.to_vec();
    let mut second = t.to_vec();
    for index in 0..2 {
        first[index] = t[index].narrow(1, 0, border)?;
        second[index] = t[index].narrow(1, border, rest)?;
    }
    let one = forward(s, &inputs(&first))?;
    second[5] = one.last.clone();
    let two = forward(s, &inputs(&second))?;
    let mut grads = zeros(t)?;
    let dy2 = dy.narrow(1, border, rest)?;
    let g2 = gradients(s, &second, two.saved, &dy2, Some(d_last), &mut grads)?;
    let dy1 = dy.narrow(1, 0, border)?;
    let g1 = gradients(s, &first, one.saved, &dy1, g2[5].as_ref(), &mut grads)?;
    let mut all = vec![Tensor::cat(&[one.y, two.y], 1)?, two.last];
    for index in 0..t.len() {
        all.push(match (&g1[index], &g2[index]) {
            (Some(first), Some(second)) if index < 2 => Tensor::cat(&[first, second], 1)?,
            (Some(first), _) => first.clone(),
            _ => grads[index].tensor().clone(),
        });
    }
    Ok(all)
}

#[test]
fn two_calls_with_the_carried_state_equal_one() -> Result<()> {
    let s = SMALL;
    let (n, t) = (2, 13);
    let channels = s.heads * s.head_dim + 2 * s.state;
    let shapes: [&[usize]; 6] = [
        &[n, t, channels],
        &[n, t, s.heads],
        &[s.heads],
        &[s.heads],
        &[s.heads],
        &[1, s.heads, s.head_dim, s.state],
    ];
    let tensors: Vec<Tensor> = (1..)
        .zip(shapes)
        .map(|(seed, shape)| uniform(shape, seed))
        .collect::<Result<_>>()?;
    let dy = uniform(&[n, t, s.heads * s.head_dim], 10)?;
    let d_last = uniform(&[n, s.heads, s.head_dim, s.state], 11)?;
    let Output { y, last, saved } = forward(&s, &inputs(&tensors))?;
    let mut grads = zeros(&tensors)?;
    let found = gradients(&s, &tensors, saved, &dy, Some(&d_last), &mut grads)?;
    let found = found.into_iter().zip(&grads);
    let mut whole = vec![y, last];
    whole.extend(found.map(|(gradient, buffer)| gradient.unwrap_or_else(|| buffer.tensor().clone())));
    for border in [1, 3, 4, 6, 12] {
        let parts = in_two_calls(&s, &tensors, border, &dy, &d_last)?;
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
    let s = SMALL;
    let good = [
        uniform(&[2, 5, 16], 1)?,
        uniform(&[2, 5, 2], 2)?,
        uniform(&[2], 3)?,
        uniform(&[2], 4)?,
        uniform(&[2], 5)?,
        uniform(&[1, 2, 3, 5], 6)?,
    ];
    assert!(forward(&s, &inputs(&good)).is_ok());
    for index in 0..good.len() {
        let mut bad = good.to_vec();
        bad[index] = bad[index].narrow(bad[index].rank() - 1, 0, 1)?;
        assert!(forward(&s, &inputs(&bad)).is_err(), "input {index}");
    }
    assert!(forward(&Ssd { chunk: 0, ..s }, &inputs(&good)).is_err());
    let other = forward(&Ssd { chunk: 2, ..s }, &inputs(&good))?.saved;
    let dy = uniform(&[2, 5, 6], 7)?;
    assert!(gradients(&s, &good, other, &dy, None, &mut zeros(&good)?).is_err());
    Ok(())
}
