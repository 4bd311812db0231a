//! Compares a step with the reference in double precision, for every kind of state.
//!
//! There are no gradients.

use candle_core::{DType, Device, Result};

use super::*;
use crate::relative_error;
use crate::testing::uniform;

/// A stack and its position.
#[derive(Clone, Copy, Debug)]
struct Case {
    layers: usize,
    d: usize,
    heads: usize,
    head_dim: usize,
    inner: usize,
    past: usize,
    rotary: bool,
    /// Whether there are previous rows, whether sequences share them, whether the room has the
    /// past.
    starts: bool,
    shared: bool,
    in_room: bool,
}

const SMALL: Case = Case {
    layers: 2,
    d: 32,
    heads: 2,
    head_dim: 16,
    inner: 40,
    past: 3,
    rotary: true,
    starts: false,
    shared: false,
    in_room: false,
};

/// A stack for `n` sequences, and its input.
struct Stack {
    case: Case,
    attention: Attention,
    layers: Vec<Layer>,
    states: Vec<LayerState>,
    gain: Tensor,
    x: Tensor,
}

impl Stack {
    /// Creates a stack with gains and biases in `wide`, everything else in `dtype`.
    fn new(case: Case, n: usize, dtype: DType, wide: DType, device: &Device) -> Result<Self> {
        let Case { d, inner, past, .. } = case;
        let width = case.heads * case.head_dim;
        let mut seed = 0;
        let mut draw = |shape: &[usize], scale: f64, shift: f64, dtype: DType| -> Result<Tensor> {
            seed += 1;
            uniform(shape, seed)?
                .affine(scale, shift)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        let mut layers = Vec::new();
        let mut states = Vec::new();
        for _ in 0..case.layers {
            let scale = |inputs: usize| 2.0 / (inputs as f64).sqrt();
            layers.push(Layer {
                attention_gain: draw(&[d], 0.2, 1.0, wide)?,
                to_q: draw(&[width, d], scale(d), 0.0, dtype)?,
                to_kv: draw(&[2 * width, d], scale(d), 0.0, dtype)?,
                to_out: draw(&[d, width], scale(width), 0.0, dtype)?,
                feed_forward_gain: draw(&[d], 0.2, 1.0, wide)?,
                inner: draw(&[inner, d], scale(d), 0.0, dtype)?,
                inner_bias: draw(&[inner], 0.5, 0.0, wide)?,
                outer: draw(&[d, inner], scale(inner), 0.0, dtype)?,
                outer_bias: draw(&[d], 0.5, 0.0, wide)?,
            });
            let sequences = if case.shared { 1 } else { n };
            let rows = draw(&[sequences, past, 2 * width], 1.0, 0.0, dtype)?;
            let room = draw(&[n, past + 2, 2 * width], 1.0, 0.0, dtype)?;
            let in_room = case.in_room && past > 0;
            if in_room {
                room.slice_set(&rows.broadcast_as((n, past, 2 * width))?.contiguous()?, 1, 0)?;
            }
            let shift = |row: Tensor| (!case.starts).then_some(row);
            states.push(LayerState {
                attention_shift: shift(draw(&[sequences, 1, d], 1.0, 0.0, dtype)?),
                feed_forward_shift: shift(draw(&[sequences, 1, d], 1.0, 0.0, dtype)?),
                past: match (past, in_room) {
                    (0, _) => None,
                    (_, true) => Some(room.narrow(1, 0, past)?),
                    (_, false) => Some(rows),
                },
                moves: !in_room,
                room,
            });
        }
        Ok(Self {
            case,
            attention: Attention {
                heads: case.heads,
                head_dim: case.head_dim,
                rotary: case.rotary,
                causal: true,
                dropout: None,
            },
            layers,
            states,
            gain: draw(&[d], 0.2, 1.0, wide)?,
            x: draw(&[n, 1, d], 1.0, 0.0, dtype)?,
        })
    }

    fn step(&self) -> Result<Output> {
        let position = self.case.past + 5;
        step(
            &self.attention,
            &self.layers,
            &self.states,
            &self.gain,
            position,
            &self.x,
        )
    }

    /// The reference results for the same numbers, in `f64` on the CPU.
    fn expected(&self) -> Result<Computed> {
        let exact = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        let maybe = |tensor: &Option<Tensor>| tensor.as_ref().map(exact).transpose();
        let layers: Vec<Layer> = (self.layers.iter())
            .map(|layer| {
                Ok(Layer {
                    attention_gain: exact(&layer.attention_gain)?,
                    to_q: exact(&layer.to_q)?,
                    to_kv: exact(&layer.to_kv)?,
                    to_out: exact(&layer.to_out)?,
                    feed_forward_gain: exact(&layer.feed_forward_gain)?,
                    inner: exact(&layer.inner)?,
                    inner_bias: exact(&layer.inner_bias)?,
                    outer: exact(&layer.outer)?,
                    outer_bias: exact(&layer.outer_bias)?,
                })
            })
            .collect::<Result<_>>()?;
        let states: Vec<LayerState> = (self.states.iter())
            .map(|state| {
                Ok(LayerState {
                    attention_shift: maybe(&state.attention_shift)?,
                    feed_forward_shift: maybe(&state.feed_forward_shift)?,
                    past: maybe(&state.past)?,
                    room: exact(&state.room)?,
                    moves: state.moves,
                })
            })
            .collect::<Result<_>>()?;
        reference::step(
            &self.attention,
            &layers,
            &states,
            &exact(&self.gain)?,
            self.case.past + 5,
            &exact(&self.x)?,
        )
    }

    /// Fails unless a step equals the reference implementation and leaves the rooms as it should.
    fn check(&self, bound: f64) -> Result<()> {
        let case = self.case;
        let expected = self.expected()?;
        let pasts: Vec<Option<Tensor>> = (self.states.iter())
            .map(|state| state.past.as_ref().map(Tensor::copy).transpose())
            .collect::<Result<_>>()?;
        let found = self.step()?;
        let close = |what: &str, found: &Tensor, expected: &Tensor| -> Result<()> {
            let error = relative_error(found, expected, 1e-6)?;
            // written so that NaN fails
            assert!(error <= bound, "{case:?}: {what} is off by {error:.2e}");
            Ok(())
        };
        close("the result", &found.out, &expected.out)?;
        for (index, (state, past)) in self.states.iter().zip(pasts).enumerate() {
            for place in 0..2 {
                let row = found.shifts.get(index)?.get(place)?;
                close("a shifted row", &row, &expected.shifts[index][place])?;
            }
            let present = state.room.narrow(1, case.past, 1)?;
            close("the present row", &present, &expected.present[index])?;
            if let Some(past) = past {
                let (n, s, width) = state.room.narrow(1, 0, case.past)?.dims3()?;
                let kept = relative_error(
                    &state.room.narrow(1, 0, case.past)?,
                    &past.broadcast_as((n, s, width))?,
                    1e-6,
                )?;
                assert_eq!(kept, 0.0, "{case:?}: the past");
            }
        }
        Ok(())
    }
}

/// The case with every kind of state.
fn kinds(case: Case) -> impl Iterator<Item = Case> {
    [
        (0, true, true, false),
        (3, true, false, false),
        (3, false, true, false),
        (3, false, false, true),
        (3, false, true, true),
    ]
    .into_iter()
    .map(move |(past, rotary, shared, in_room)| Case {
        past,
        rotary,
        starts: past == 0,
        shared,
        in_room,
        ..case
    })
}

#[test]
fn a_step_without_a_kernel_is_that_of_the_reference() -> Result<()> {
    for case in kinds(SMALL) {
        for n in [1, 3] {
            Stack::new(case, n, DType::F32, DType::F32, &Device::Cpu)?.check(1e-5)?;
            Stack::new(case, n, DType::F64, DType::F64, &Device::Cpu)?.check(1e-12)?;
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let stack = || Stack::new(SMALL, 1, DType::F32, DType::F32, &Device::Cpu);
    let mut long = stack()?;
    long.x = uniform(&[1, 2, SMALL.d], 1)?.to_dtype(DType::F32)?;
    let mut short = stack()?;
    short.states.pop();
    let mut full = stack()?;
    full.states[1].room = full.states[1].room.narrow(1, 0, SMALL.past)?.contiguous()?;
    let mut both_ways = stack()?;
    both_ways.attention.causal = false;
    for wrong in [long, short, full, both_ways] {
        assert!(wrong.step().is_err(), "{:?}", wrong.states.len());
    }
    Ok(())
}

#[cfg(feature = "cuda")]
mod on_cuda {
    use super::*;

    const LARGE: Case = Case {
        layers: 8,
        d: 1024,
        heads: 16,
        head_dim: 64,
        inner: 2048,
        ..SMALL
    };

    fn check(device: &Device, case: Case, n: usize) -> Result<()> {
        let stack = Stack::new(case, n, DType::BF16, DType::F32, device)?;
        assert!(takes(&stack.attention, &stack.x, case.inner, case.past), "{case:?}");
        stack.check(2e-2)?;
        // an equal second step gives the same result
        let (first, second) = (stack.step()?, stack.step()?);
        assert_eq!(relative_error(&first.out, &second.out, 1e-6)?, 0.0, "{case:?}");
        Ok(())
    }

    #[test]
    fn one_kernel_computes_what_the_reference_does() -> Result<()> {
        let device = crate::cuda::device(0)?;
        // fills freed memory with NaN, so that elements that the kernel does not write show up
        drop(Tensor::full(f32::NAN, 1 << 22, &device)?);
        for case in kinds(SMALL).chain(kinds(LARGE)) {
            for n in [1, 3, 8] {
                check(&device, case, n)?;
            }
        }
        for past in [1, 8, 15, 16, 17, 100, 300] {
            check(&device, Case { past, ..LARGE }, 1)?;
        }
        Ok(())
    }

    #[test]
    fn sizes_of_all_kinds_fit_the_kernel() -> Result<()> {
        let device = crate::cuda::device(0)?;
        for (layers, d, heads, head_dim, inner) in [
            (1, 16, 1, 16, 8),
            (3, 528, 3, 48, 1048),
            (2, 1536, 12, 128, 6144),
            (2, 256, 20, 16, 512),
            (2, 4096, 32, 128, 8192),
            (40, 64, 2, 32, 128),
        ] {
            let sizes = Case {
                layers,
                d,
                heads,
                head_dim,
                inner,
                past: 21,
                ..SMALL
            };
            check(&device, sizes, 1)?;
            if d <= 2048 {
                check(&device, sizes, 2)?;
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_not_a_number_stays_so() -> Result<()> {
        // blocks wait for each other's numbers: every value must arrive, NaN included
        let device = crate::cuda::device(0)?;
        for n in [1, 2] {
            let mut stack = Stack::new(LARGE, n, DType::BF16, DType::F32, &device)?;
            for value in [f32::NAN, -f32::NAN, f32::INFINITY] {
                stack.x = Tensor::full(value, (n, 1, LARGE.d), &device)?.to_dtype(DType::BF16)?;
                let out = stack
                    .step()?
                    .out
                    .to_dtype(DType::F32)?
                    .flatten_all()?
                    .to_vec1::<f32>()?;
                assert!(out.iter().all(|value| value.is_nan()), "{value}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_kernel_refuses_other_steps() -> Result<()> {
        let device = crate::cuda::device(0)?;
        let several = Stack::new(SMALL, 9, DType::BF16, DType::F32, &device)?;
        assert!(!takes(&several.attention, &several.x, SMALL.inner, SMALL.past));
        let single = Stack::new(SMALL, 1, DType::F32, DType::F32, &device)?;
        assert!(!takes(&single.attention, &single.x, SMALL.inner, SMALL.past));
        Ok(())
    }
}
