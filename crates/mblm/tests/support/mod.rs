//! Checks that several test files share.

#![allow(dead_code, reason = "each test file uses some of the checks")]

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mblm::generate::Generator;
use mblm::model::{Gradients, Mblm, ModelBatch, TrainingPass};
use mblm_ops::relative_error;
use mblm_ops::testing::uniform;

/// Reproducible ids below `tokens`, (batch, len).
pub(crate) fn ids(batch: usize, len: usize, tokens: usize, seed: u64) -> ModelBatch {
    let noise: Vec<f64> = uniform(&[batch * len], seed)
        .and_then(|t| t.to_vec1())
        .expect("a small tensor");
    let ids: Vec<u32> = noise.iter().map(|x| ((x + 1.0) / 2.0 * tokens as f64) as u32).collect();
    ModelBatch::new(ids, batch, len)
}

/// One of the samples of a batch.
pub(crate) fn sample(batch: &ModelBatch, index: usize) -> ModelBatch {
    let ids = batch.ids[index * batch.len..(index + 1) * batch.len].to_vec();
    ModelBatch::new(ids, 1, batch.len)
}

/// The logits of a whole forward pass equal those of every given split into a prefill and single
/// steps.
pub(crate) fn check_splits(model: &Arc<Mblm>, len: usize, splits: &[usize]) {
    let ids = ids(2, len, 256, 11);
    let whole = model.logits(&ids).expect("logits");
    let rows: Vec<Vec<u32>> = ids.ids.chunks(len).map(<[u32]>::to_vec).collect();
    let generator = Generator::new(model.clone()).expect("a generator");
    for &split in splits {
        let mut state = generator.begin(2);
        let prompts: Vec<&[u32]> = rows.iter().map(|row| &row[..split]).collect();
        let mut logits = generator.prefill(&mut state, &prompts).expect("prefill");
        for position in split - 1..len {
            let expected = whole.narrow(1, position, 1).and_then(|t| t.squeeze(1)).expect("a row");
            let error = relative_error(&logits, &expected, 0.0).expect("equal shapes");
            let bound = if model.dtype() == candle_core::DType::F64 {
                1e-11
            } else {
                1e-5
            };
            assert!(error <= bound, "split {split}, position {position}: off by {error:.2e}");
            if position + 1 < len {
                let next: Vec<u32> = rows.iter().map(|row| row[position + 1]).collect();
                logits = generator.step(&mut state, &next).expect("a step");
            }
        }
        assert_eq!(state.position(), len);
    }
}

/// The gradients of an `f64` model equal central differences, at `samples` elements of every
/// parameter.
pub(crate) fn check_gradients(model: &Mblm, samples: usize) {
    check_gradients_of(model, samples, |ids, weights, gradients| {
        model
            .loss_and_gradients(ids, Some(weights), TrainingPass::default(), gradients)
            .expect("a training pass")
            .mean
    });
}

/// The same for any loss: `pass` gives that of weighted ids and adds its gradients.
pub(crate) fn check_gradients_of(
    model: &Mblm,
    samples: usize,
    pass: impl Fn(&ModelBatch, &[f32], &mut Gradients) -> f64,
) {
    const STEP: f64 = 1e-5;
    let per_patch = model.config().patch_bytes(0);
    let ids = ids(2, 3 * per_patch + 1, 256, 5);
    let weights: Vec<f32> = uniform(&[ids.ids.len()], 6)
        .and_then(|w| w.affine(0.5, 0.6)?.to_dtype(candle_core::DType::F32)?.to_vec1())
        .expect("weights");
    let mut gradients = Gradients::zeros(model.parameters()).expect("buffers");
    pass(&ids, &weights, &mut gradients);
    let loss = || {
        let mut scratch = Gradients::zeros(model.parameters()).expect("buffers");
        pass(&ids, &weights, &mut scratch)
    };
    for (parameter, gradient) in model.parameters().iter().zip(gradients.iter()) {
        let values: Vec<f64> = parameter
            .value()
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .expect("values");
        let found: Vec<f64> = gradient
            .tensor()
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .expect("values");
        for sample in 0..samples.min(values.len()) {
            let element = (sample * 7919 + 13) % values.len();
            let at = |delta: f64| {
                let mut values = values.clone();
                values[element] += delta;
                let shape = parameter.value().shape();
                let shifted = Tensor::from_vec(values, shape, &Device::Cpu).expect("values");
                parameter.set(&shifted).expect("the parameter's own shape");
                loss()
            };
            let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            at(0.0);
            let error = (found[element] - difference).abs();
            assert!(
                error <= 1e-6 * difference.abs() + 1e-8,
                "{} [{element}]: gradient {} against difference {difference}",
                parameter.name(),
                found[element]
            );
        }
    }
}
