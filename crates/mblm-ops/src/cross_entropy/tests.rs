//! Compares loss and gradient with the reference, finite differences and closed forms.

use candle_core::{Device, Result};

use super::*;
use crate::check::Harness;
use crate::op_test;
use crate::relative_error;
use crate::testing::uniform;

fn targets(rows: usize, vocabulary: usize) -> Result<Tensor> {
    let targets: Vec<u32> = (0..rows).map(|i| (i * i % vocabulary) as u32).collect();
    Tensor::from_vec(targets, rows, &Device::Cpu)
}

/// Weights 0, 0.5, 1, 1.5, 0, …: some rows are ignored, some count in part.
fn weights(rows: usize) -> Result<Tensor> {
    let weights: Vec<f32> = (0..rows).map(|i| (i % 4) as f32 / 2.0).collect();
    Tensor::from_vec(weights, rows, &Device::Cpu)
}

/// Logits (r, V) in ±8; the output is the total loss, and its gradient is passed as the scale.
macro_rules! check {
    ($rows:expr, $vocabulary:expr) => {
        Harness::new("cross_entropy", &[&[$rows, $vocabulary]])
            .affine(0, 8.0, 0.0)
            .reference(|t| {
                let (targets, weights) = (targets($rows, $vocabulary)?, weights($rows)?);
                let losses = reference::losses(&t[0], &targets.to_device(t[0].device())?)?;
                let weights = weights.to_device(t[0].device())?.to_dtype(t[0].dtype())?;
                Ok(vec![(losses * weights)?.sum_all()?])
            })
            .fused(|t| {
                let (total, _) = at(&t[0], &targets($rows, $vocabulary)?, &weights($rows)?, 1.0)?;
                Ok((vec![total], ()))
            })
            .backward(|t, (), dy, _| {
                let scale = dy[0].to_dtype(DType::F64)?.to_scalar::<f64>()?;
                let (_, d) = at(&t[0], &targets($rows, $vocabulary)?, &weights($rows)?, scale)?;
                Ok(vec![Some(d)])
            })
    };
}

/// Loss and gradient on the device of the logits.
fn at(logits: &Tensor, targets: &Tensor, weights: &Tensor, scale: f64) -> Result<(Tensor, Tensor)> {
    let device = logits.device();
    loss_and_gradient(logits, &targets.to_device(device)?, &weights.to_device(device)?, scale)
}

/// The same, with the loss as a number.
fn value(logits: &Tensor, targets: &Tensor, weights: &Tensor, scale: f64) -> Result<(f64, Tensor)> {
    let (total, d) = loss_and_gradient(logits, targets, weights, scale)?;
    Ok((total.to_scalar()?, d))
}

op_test! {
    small: check!(5, 7)
    one_class: check!(3, 1)
    a_vector_register_and_a_bit: check!(6, 17)
    no_row_counts: check!(1, 4)
}

#[cfg(feature = "cuda")]
#[test]
fn many_rows_on_cuda_equal_the_reference() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        check!(7001, 257).against_reference_on_cuda(dtype)?;
        check!(3, 5000).against_reference_on_cuda(dtype)?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn losses_weights_and_bad_targets_on_cuda() -> Result<()> {
    let device = crate::cuda::device(0)?;
    let (logits, ids) = ((uniform(&[300, 257], 1)? * 8.0)?, targets(300, 257)?);
    let expected = reference::losses(&logits, &ids)?;
    let (logits, ids) = (
        logits.to_dtype(DType::F32)?.to_device(&device)?,
        ids.to_device(&device)?,
    );
    assert!(relative_error(&losses(&logits, &ids)?, &expected, 1e-6)? < 1e-6);
    let logits = Tensor::new(&[[1f32, 2.0], [f32::NAN, 0.0], [0.0, 0.0]], &device)?;
    let ids = Tensor::new(&[1u32, 999, 0], &device)?;
    let (total, d) = value(&logits, &ids, &Tensor::new(&[1f32, 0.0, 1.0], &device)?, 1.0)?;
    let exact = (1.0 + (-1f64).exp()).ln() + 2f64.ln();
    assert!((total - exact).abs() < 1e-6, "{total} against {exact}");
    assert_eq!(d.to_vec2::<f32>()?[1], [0.0, 0.0]);
    let (total, _) = value(&logits, &ids, &Tensor::new(&[1f32, 1.0, 1.0], &device)?, 1.0)?;
    assert!(total.is_nan());
    let large = Tensor::new(&[[1e4f32, 0.0, f32::NEG_INFINITY], [-1e4, -1e4, 1e4]], &device)?;
    let (total, d) = value(
        &large,
        &Tensor::new(&[0u32, 0], &device)?,
        &Tensor::new(&[1f32, 1.0], &device)?,
        1.0,
    )?;
    assert_eq!(total, 2e4);
    assert_eq!(d.to_vec2::<f32>()?, [[0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]]);
    Ok(())
}

#[test]
fn several_pieces_equal_the_reference() -> Result<()> {
    check!(700, 257).against_reference(DType::F32, &Device::Cpu)?;
    check!(700, 257).against_reference(DType::F64, &Device::Cpu)
}

#[test]
fn losses_are_those_of_the_reference() -> Result<()> {
    for (rows, vocabulary) in [(0, 3), (1, 1), (5, 19), (700, 257)] {
        for (dtype, bound) in [(DType::F64, 1e-14), (DType::F32, 1e-6), (DType::BF16, 1e-2)] {
            let logits = (uniform(&[rows, vocabulary], 1)? * 8.0)?.to_dtype(dtype)?;
            let targets = targets(rows, vocabulary)?;
            let found = losses(&logits, &targets)?;
            assert_eq!(found.dtype(), dtype);
            let expected = reference::losses(&logits.to_dtype(DType::F64)?, &targets)?;
            assert!(
                relative_error(&found, &expected, 1e-6)? <= bound,
                "{rows} rows, {dtype:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn half_precision_goes_by_autograd_and_agrees() -> Result<()> {
    let logits = (uniform(&[9, 5], 1)? * 8.0)?.to_dtype(DType::BF16)?;
    let (mut ids, weights) = (targets(9, 5)?.to_vec1::<u32>()?, weights(9)?);
    ids[4] = 77; // weight 0
    let targets = Tensor::new(ids, &Device::Cpu)?;
    let (found, d_found) = value(&logits, &targets, &weights, 0.25)?;
    let (exact, d_exact) = value(&logits.to_dtype(DType::F64)?, &targets, &weights, 0.25)?;
    assert!((found / exact - 1.0).abs() < 1e-6, "{found} against {exact}");
    assert_eq!(d_found.dtype(), DType::BF16);
    assert!(relative_error(&d_found, &d_exact, 1e-6)? < 5e-3);
    Ok(())
}

#[test]
fn equal_logits_cost_the_logarithm_of_their_number() -> Result<()> {
    let logits = Tensor::full(3f32, (1, 256), &Device::Cpu)?;
    let losses = losses(&logits, &Tensor::new(&[17u32], &Device::Cpu)?)?.to_vec1::<f32>()?;
    assert!((f64::from(losses[0]) - 256f64.ln()).abs() < 1e-6, "{losses:?}");
    Ok(())
}

#[test]
fn large_logits_neither_overflow_nor_vanish() -> Result<()> {
    let logits = Tensor::new(&[[1e4f32, 0.0, f32::NEG_INFINITY], [-1e4, -1e4, 1e4]], &Device::Cpu)?;
    let targets = Tensor::new(&[0u32, 0], &Device::Cpu)?;
    assert_eq!(losses(&logits, &targets)?.to_vec1::<f32>()?, [0.0, 2e4]);
    let (total, d) = value(&logits, &targets, &Tensor::ones(2, DType::F32, &Device::Cpu)?, 1.0)?;
    assert_eq!(total, 2e4);
    assert_eq!(d.to_vec2::<f32>()?, [[0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]]);
    Ok(())
}

#[test]
fn a_weight_of_zero_ignores_target_and_logits() -> Result<()> {
    let logits = Tensor::new(&[[1f32, 2.0], [f32::NAN, 0.0]], &Device::Cpu)?;
    let targets = Tensor::new(&[1u32, 999], &Device::Cpu)?;
    let weights = Tensor::new(&[1f32, 0.0], &Device::Cpu)?;
    for logits in [
        logits.clone(),
        logits.to_dtype(DType::F64)?,
        logits.to_dtype(DType::BF16)?,
    ] {
        let (total, d) = value(&logits, &targets, &weights, 1.0)?;
        let expected = (1.0 + (-1f64).exp()).ln();
        assert!((total - expected).abs() < 1e-6, "{total} against {expected}");
        let d = d.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        assert!(d[0][0] > 0.2 && d[0][1] < -0.2, "{d:?}");
        assert_eq!(d[1], [0.0, 0.0]);
    }
    Ok(())
}

#[test]
fn nan_reaches_the_loss_and_its_row() -> Result<()> {
    // not in the first logit: a maximum by comparisons alone would skip a later NaN
    let logits = Tensor::new(&[[1f32, 2.0, 0.5], [0.0, f32::NAN, 0.5]], &Device::Cpu)?;
    let targets = Tensor::new(&[1u32, 0], &Device::Cpu)?;
    let found = losses(&logits, &targets)?.to_vec1::<f32>()?;
    assert!(found[0].is_finite() && found[1].is_nan(), "{found:?}");
    let (total, d) = value(&logits, &targets, &Tensor::ones(2, DType::F32, &Device::Cpu)?, 1.0)?;
    let d = d.to_vec2::<f32>()?;
    assert!(total.is_nan());
    assert!(
        d[0].iter().all(|d| d.is_finite()) && d[1].iter().all(|d| d.is_nan()),
        "{d:?}"
    );
    Ok(())
}

#[test]
fn threads_do_not_matter() -> Result<()> {
    let logits = uniform(&[1000, 257], 1)?.to_dtype(DType::F32)?;
    let mut results = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a small pool");
        let (total, d) = pool.install(|| value(&logits, &targets(1000, 257)?, &weights(1000)?, 0.1))?;
        results.push((total.to_bits(), d.to_vec2::<f32>()?));
    }
    assert!(results[0] == results[1]);
    Ok(())
}

#[test]
fn targets_outside_the_vocabulary_are_named() -> Result<()> {
    let (logits, ids) = (uniform(&[3, 4], 1)?, Tensor::new(&[0u32, 3, 4], &Device::Cpu)?);
    let messages = [
        losses(&logits, &ids).unwrap_err().to_string(),
        loss_and_gradient(&logits, &ids, &Tensor::ones(3, DType::F32, &Device::Cpu)?, 1.0)
            .unwrap_err()
            .to_string(),
    ];
    for message in messages {
        assert!(message.contains("id 4 at position [2]"), "{message}");
        assert!(message.contains("4 rows"), "{message}");
    }
    assert!(losses(&logits, &targets(2, 4)?).is_err());
    assert!(loss_and_gradient(&logits, &targets(3, 4)?, &weights(2)?, 1.0).is_err());
    assert!(losses(&uniform(&[2, 0], 1)?, &targets(2, 4)?).is_err());
    Ok(())
}
