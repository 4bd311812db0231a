//! Compares the step with torch, the formula and the reference; checks the norm and the errors.

use candle_core::{Device, Result};

use super::*;
use crate::relative_error;
use crate::testing::uniform;

const ADAM: Adam = Adam {
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
};

/// A parameter that owns its tensors.
struct Owned {
    value: Tensor,
    gradient: GradBuffer,
    m: Tensor,
    v: Tensor,
}

impl Owned {
    fn new(value: &Tensor, gradient: &Tensor) -> Result<Self> {
        let mut buffer = GradBuffer::zeros(gradient.shape(), gradient.dtype(), gradient.device())?;
        buffer.add(gradient)?;
        Ok(Self {
            value: value.copy()?,
            gradient: buffer,
            m: gradient.zeros_like()?,
            v: gradient.zeros_like()?,
        })
    }

    fn random(shape: &[usize], seed: u64, dtype: DType) -> Result<Self> {
        Self::new(
            &uniform(shape, seed)?.to_dtype(dtype)?,
            &uniform(shape, seed + 100)?.to_dtype(dtype)?,
        )
    }

    fn parameter(&self) -> Parameter<'_> {
        Parameter {
            value: &self.value,
            gradient: &self.gradient,
            m: &self.m,
            v: &self.v,
        }
    }
}

/// Element i of step s has the gradient sin(s (i + 1)) / 10^i.
///
/// Expected: torch.optim.AdamW of PyTorch 2.15 in double precision, lr 0.01, betas (0.9, 0.95), eps
/// 1e-3; without weight decay it equals torch.optim.Adam.
#[test]
fn five_steps_end_where_torch_does() -> Result<()> {
    let cases = [
        (
            0.0,
            [
                0.9696032659481977,
                -0.5125231799213407,
                0.24414417255846257,
                3.0042613485144134,
            ],
        ),
        (
            0.1,
            [
                0.9647029689440958,
                -0.5099869853876952,
                0.24291588531650535,
                2.9892747195769656,
            ],
        ),
    ];
    for (weight_decay, expected) in cases {
        let adam = Adam {
            eps: 1e-3,
            weight_decay,
            ..ADAM
        };
        let value = Tensor::new(&[1.0, -0.5, 0.25, 3.0], &Device::Cpu)?;
        let mut owned = Owned::new(&value, &value.zeros_like()?)?;
        for s in 1..=5u64 {
            let gradient: Vec<f64> = (0..4)
                .map(|i| (s as f64 * f64::from(i + 1)).sin() * 10f64.powi(-i))
                .collect();
            owned.gradient.clear()?;
            owned.gradient.add(&Tensor::new(gradient, &Device::Cpu)?)?;
            step(&adam, 0.01, s, 1.0, &mut [owned.parameter()])?;
        }
        for (found, expected) in owned.value.to_vec1::<f64>()?.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14, "{found} against {expected}");
        }
    }
    Ok(())
}

/// Three steps of one element by the formula, in `f64`, with a constant gradient.
fn by_formula(adam: &Adam, rate: f64, scale: f64, value: f64, gradient: f64) -> f64 {
    let (mut value, mut m, mut v, g) = (value, 0.0, 0.0, gradient * scale);
    for step in 1..=3 {
        m = adam.beta1 * m + (1.0 - adam.beta1) * g;
        v = adam.beta2 * v + (1.0 - adam.beta2) * g * g;
        let m_hat = m / (1.0 - adam.beta1.powi(step));
        let v_hat = v / (1.0 - adam.beta2.powi(step));
        value -= rate * adam.weight_decay * value;
        value -= rate * m_hat / (v_hat.sqrt() + adam.eps);
    }
    value
}

#[test]
fn every_element_follows_the_formula() -> Result<()> {
    for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 2e-7)] {
        let shapes: [&[usize]; 4] = [&[3, 5], &[], &[70_001], &[0, 2]];
        let owned = (0..4)
            .map(|i| Owned::random(shapes[i], i as u64, dtype))
            .collect::<Result<Vec<_>>>()?;
        let before: Vec<Tensor> = owned.iter().map(|o| o.value.copy()).collect::<Result<_>>()?;
        for s in 1..=3 {
            let mut parameters: Vec<Parameter<'_>> = owned.iter().map(Owned::parameter).collect();
            step(&ADAM, 1e-2, s, 0.5, &mut parameters)?;
        }
        for (owned, before) in owned.iter().zip(before) {
            let host = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
            let expected: Vec<f64> = host(&before)?
                .into_iter()
                .zip(host(owned.gradient.tensor())?)
                .map(|(value, gradient)| by_formula(&ADAM, 1e-2, 0.5, value, gradient))
                .collect();
            let expected = Tensor::from_vec(expected, before.dims(), &Device::Cpu)?;
            assert!(
                relative_error(&owned.value, &expected, 1e-6)? <= bound,
                "{:?} {dtype:?}",
                before.dims()
            );
        }
    }
    Ok(())
}

#[test]
fn the_reference_takes_the_same_steps() -> Result<()> {
    for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
        for shape in [&[4usize, 9] as &[usize], &[], &[40_000], &[0]] {
            let (fused, plain) = (Owned::random(shape, 1, dtype)?, Owned::random(shape, 1, dtype)?);
            for s in 1..=3 {
                step(&ADAM, 1e-2, s, 0.7, &mut [fused.parameter()])?;
                reference::step(&Factors::new(&ADAM, 1e-2, s, 0.7)?, &plain.parameter())?;
            }
            for (fused, plain) in [(&fused.value, &plain.value), (&fused.m, &plain.m), (&fused.v, &plain.v)] {
                assert!(relative_error(fused, plain, 1e-9)? <= bound, "{shape:?} {dtype:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn half_precision_values_move_with_means_in_f32() -> Result<()> {
    let (value, gradient) = (uniform(&[64], 1)?, uniform(&[64], 2)?.to_dtype(DType::F32)?);
    let half = Owned::new(&value.to_dtype(DType::BF16)?, &gradient)?;
    let full = Owned::new(&value.to_dtype(DType::F32)?, &gradient)?;
    step(&ADAM, 0.1, 1, 1.0, &mut [half.parameter(), full.parameter()])?;
    assert_eq!((half.value.dtype(), half.m.dtype()), (DType::BF16, DType::F32));
    assert!(relative_error(&half.value, &full.value, 1e-6)? < 5e-3);
    assert!(relative_error(&half.value, &value, 1e-6)? > 5e-2);
    Ok(())
}

#[test]
fn values_change_for_every_tensor_that_shares_their_memory() -> Result<()> {
    let owned = Owned::random(&[2, 3], 1, DType::F32)?;
    let (view, before) = (owned.value.flatten_all()?, owned.value.copy()?);
    step(&ADAM, 1e-2, 1, 1.0, &mut [owned.parameter()])?;
    assert_eq!(view.to_vec1::<f32>()?, owned.value.flatten_all()?.to_vec1::<f32>()?);
    assert!(relative_error(&owned.value, &before, 1e-6)? > 1e-3);
    Ok(())
}

#[test]
fn threads_do_not_matter() -> Result<()> {
    let mut results = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a small pool");
        let owned = Owned::random(&[200_003], 1, DType::F32)?;
        let sums = pool.install(|| {
            step(&ADAM, 1e-2, 1, 1.0, &mut [owned.parameter()])?;
            sums(&[&owned.gradient])
        })?;
        results.push((global_norm(&sums).to_bits(), owned.value.to_vec1::<f32>()?));
    }
    assert!(results[0] == results[1]);
    Ok(())
}

#[test]
fn the_global_norm_is_that_of_all_elements() -> Result<()> {
    assert_eq!(norm_of(&[])?, 0.0);
    let (a, b) = (uniform(&[70_001], 1)?, uniform(&[3, 7], 2)?.to_dtype(DType::F32)?);
    let exact = [&a, &b]
        .iter()
        .map(|t| t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>())
        .sum::<Result<f64>>()?
        .sqrt();
    let found = norm_of(&[&a, &b])?;
    assert!((found / exact - 1.0).abs() < 1e-12, "{found} against {exact}");
    // squares beyond the range of f32
    let large = Tensor::new(&[3e30f32, 4e30], &Device::Cpu)?;
    assert!((norm_of(&[&large])? / 5e30 - 1.0).abs() < 1e-6);
    let bad = Tensor::new(&[1f32, f32::NAN], &Device::Cpu)?;
    assert!(norm_of(&[&a, &bad])?.is_nan());
    Ok(())
}

fn buffer(tensor: &Tensor) -> Result<GradBuffer> {
    let mut buffer = GradBuffer::zeros_like(tensor)?;
    buffer.add(tensor)?;
    Ok(buffer)
}

fn norm_of(tensors: &[&Tensor]) -> Result<f64> {
    let buffers = tensors
        .iter()
        .map(|tensor| buffer(tensor))
        .collect::<Result<Vec<_>>>()?;
    Ok(global_norm(&sums(&buffers.iter().collect::<Vec<_>>())?))
}

#[test]
fn sums_are_those_of_the_reference() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        for count in [0, 1, 17, 70_001] {
            let x = uniform(&[count], 3)?.affine(1.0, 0.3)?.to_dtype(dtype)?;
            let (found, expected) = (sums(&[&buffer(&x)?])?[0], reference::sums(&x)?);
            let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-5 * expected.abs();
            assert!(
                close(found.plain, expected.plain) && close(found.squares, expected.squares),
                "{found:?} against {expected:?}"
            );
        }
    }
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn steps_and_sums_on_cuda_are_those_of_the_cpu() -> Result<()> {
    let device = crate::cuda::device(0)?;
    for shape in [&[4usize, 9] as &[usize], &[], &[400_003], &[0]] {
        let (value, gradient) = (
            uniform(shape, 1)?.to_dtype(DType::F32)?,
            uniform(shape, 2)?.affine(1.0, 0.3)?.to_dtype(DType::F32)?,
        );
        let host = Owned::new(&value, &gradient)?;
        let card = Owned::new(&value.to_device(&device)?, &gradient.to_device(&device)?)?;
        for s in 1..=3 {
            step(&ADAM, 1e-2, s, 0.7, &mut [host.parameter()])?;
            step(&ADAM, 1e-2, s, 0.7, &mut [card.parameter()])?;
        }
        for (card, host) in [(&card.value, &host.value), (&card.m, &host.m), (&card.v, &host.v)] {
            assert!(relative_error(card, host, 1e-9)? <= 1e-6, "{shape:?}");
        }
        let of = |owned: &Owned| Ok::<_, candle_core::Error>(sums(&[&owned.gradient, &owned.gradient])?[1]);
        let (card, host) = (of(&card)?, of(&host)?);
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
        assert!(
            close(card.plain, host.plain) && close(card.squares, host.squares),
            "{card:?} against {host:?}"
        );
    }
    Ok(())
}

#[test]
fn nan_reaches_its_element_and_a_scale_of_nan_all() -> Result<()> {
    let value = Tensor::ones(3, DType::F32, &Device::Cpu)?;
    let gradient = Tensor::new(&[1f32, f32::NAN, 1.0], &Device::Cpu)?;
    for (scale, expected) in [(1.0, [false, true, false]), (f64::NAN, [true; 3])] {
        let owned = Owned::new(&value, &gradient)?;
        step(&ADAM, 1e-2, 1, scale, &mut [owned.parameter()])?;
        for tensor in [&owned.value, &owned.m, &owned.v] {
            let nan: Vec<bool> = tensor.to_vec1::<f32>()?.iter().map(|x| x.is_nan()).collect();
            assert_eq!(nan, expected);
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_stepped_is_an_error_and_changes_nothing() -> Result<()> {
    let good = Owned::random(&[2, 3], 1, DType::F32)?;
    let before = good.value.copy()?.to_vec2::<f32>()?;
    let other = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
    let strided = other.t()?;
    let bad = [
        (
            Parameter {
                m: &other,
                ..good.parameter()
            },
            "parameter 1: expected m of",
        ),
        (
            Parameter {
                v: &strided,
                ..good.parameter()
            },
            "expected v to be contiguous",
        ),
        (
            Parameter {
                m: &good.v,
                ..good.parameter()
            },
            "m and v share",
        ),
        (
            Parameter {
                v: good.gradient.tensor(),
                ..good.parameter()
            },
            "v and gradient share",
        ),
    ];
    for (bad, expected) in bad {
        let message = step(&ADAM, 1e-2, 1, 1.0, &mut [good.parameter(), bad])
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    let constants = [
        (Adam { beta1: 1.0, ..ADAM }, 1e-2, 1),
        (Adam { beta2: -0.1, ..ADAM }, 1e-2, 1),
        (Adam { eps: f64::NAN, ..ADAM }, 1e-2, 1),
        (ADAM, f64::INFINITY, 1),
        (ADAM, -1.0, 1),
        (ADAM, 1e-2, 0),
    ];
    for (adam, rate, count) in constants {
        assert!(
            step(&adam, rate, count, 1.0, &mut [good.parameter()]).is_err(),
            "{adam:?} {rate} {count}"
        );
    }
    assert_eq!(good.value.to_vec2::<f32>()?, before);
    Ok(())
}
