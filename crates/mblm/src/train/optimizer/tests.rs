//! Optimizers against torch and closed forms, and their saved state.

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::Result;
use crate::config::DecayedParameters;
use crate::model::{Builder, Gradients, Init, ParameterSource, Parameters};

const VALUES: [f64; 4] = [1.0, -0.5, 0.25, 3.0];

/// Parameters begin with the same four numbers.
struct Same;

impl ParameterSource for Same {
    fn tensor(&self, _: &str, shape: &[usize], _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(Tensor::new(&VALUES, device)?.reshape(shape)?.to_dtype(dtype)?)
    }
}

/// A matrix `layer.weight` and a vector `layer.bias`.
fn parameters() -> Parameters {
    let builder = Builder::new(&Same, DType::F64, &Device::Cpu);
    let layer = builder.scope("layer");
    layer.parameter("weight", &[2, 2], Init::Ones).unwrap();
    layer.parameter("bias", &[4], Init::Ones).unwrap();
    builder.parameters()
}

/// The same gradient for both.
fn gradients(parameters: &Parameters, gradient: [f64; 4]) -> Gradients {
    let mut gradients = Gradients::zeros(parameters).unwrap();
    let gradient = Tensor::new(&gradient, &Device::Cpu).unwrap();
    for parameter in parameters.iter() {
        gradients.of(parameter).add(&gradient).unwrap();
    }
    gradients
}

fn values(parameters: &Parameters, name: &str) -> Vec<f64> {
    let value = parameters.get(name).unwrap().value();
    value.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(found: &[f64], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-14, "{found} against {expected}");
    }
}

/// Element i of step s has the gradient sin(s (i + 1)) / 10^i.
fn waves(step: u64) -> [f64; 4] {
    [0, 1, 2, 3].map(|i| (step as f64 * f64::from(i + 1)).sin() * 10f64.powi(-i))
}

/// Expected values: torch.optim.AdamW of PyTorch 2.15 in double precision, lr 0.01, betas
/// (0.9, 0.95), eps 1e-3, with and without weight decay.
#[test]
fn adam_steps_as_torch_does_and_decays_what_is_chosen() {
    let plain = [
        0.9696032659481977,
        -0.5125231799213407,
        0.24414417255846257,
        3.0042613485144134,
    ];
    let decayed = [
        0.9647029689440958,
        -0.5099869853876952,
        0.24291588531650535,
        2.9892747195769656,
    ];
    let matching = |pattern: &str| DecayedParameters::Matching(vec![pattern.into()]);
    for (choice, weight, bias) in [
        (None, plain, plain),
        (Some(DecayedParameters::All), decayed, decayed),
        (Some(DecayedParameters::Matrices), decayed, plain),
        (Some(matching("*.bias")), plain, decayed),
        (Some(matching("layer*")), decayed, decayed),
    ] {
        let adam = Adam {
            eps: 1e-3,
            ..Adam::default()
        };
        let parameters = parameters();
        let mut optimizer = match choice {
            None => adam.build(&parameters).unwrap(),
            Some(decayed) => {
                let weight_decay = 0.1;
                let spec = AdamW {
                    adam,
                    weight_decay,
                    decayed,
                };
                spec.build(&parameters).unwrap()
            }
        };
        for step in 1..=5 {
            optimizer
                .step(&gradients(&parameters, waves(step)), 0.01, None)
                .unwrap();
            assert_eq!(optimizer.steps(), step);
        }
        close(&values(&parameters, "layer.weight"), &weight);
        close(&values(&parameters, "layer.bias"), &bias);
    }
}

/// With the same gradient g at each step the value moves by lr · g · (1 − μ^k)/(1 − μ) at step k.
#[test]
fn sgd_follows_its_closed_form() {
    let gradient = [0.5, -1.0, 2.0, 0.0];
    for momentum in [0.0, 0.9] {
        let parameters = parameters();
        let mut optimizer = Sgd { momentum }.build(&parameters).unwrap();
        let mut way = 0.0;
        for step in 1..=4 {
            optimizer.step(&gradients(&parameters, gradient), 0.1, None).unwrap();
            way += (1.0 - momentum.powi(step)) / (1.0 - momentum);
        }
        let expected: Vec<f64> = VALUES
            .iter()
            .zip(gradient)
            .map(|(value, g)| value - 0.1 * g * way)
            .collect();
        close(&values(&parameters, "layer.weight"), &expected);
        close(&values(&parameters, "layer.bias"), &expected);
        assert_eq!(optimizer.state().len(), if momentum > 0.0 { 2 } else { 0 });
    }
    for momentum in [1.0, -0.1, f64::NAN] {
        assert!(Sgd { momentum }.build(&parameters()).is_err(), "{momentum}");
    }
}

#[test]
fn the_norm_is_that_of_all_parameters_and_is_clipped() {
    let parameters = parameters();
    let mut optimizer = Sgd::default().build(&parameters).unwrap();
    // two parameters of norm 3 each, whose elements have a mean of 1.5 in both
    let norm = optimizer
        .step(&gradients(&parameters, [1.5; 4]), 1.0, Some(1.0))
        .unwrap();
    let before = 18f64.sqrt();
    assert!((norm.before - before).abs() < 1e-12);
    assert!((norm.after - 1.0).abs() < 1e-6);
    assert_eq!(norm.mean, 1.5);
    let scale = 1.0 / (before + 1e-6);
    close(
        &values(&parameters, "layer.bias"),
        &VALUES.map(|value| value - 1.5 * scale),
    );
    // a small norm is not changed
    let norm = optimizer
        .step(&gradients(&parameters, [0.1; 4]), 1.0, Some(1.0))
        .unwrap();
    assert_eq!(norm.before, norm.after);
}

#[test]
fn a_gradient_that_is_not_finite_is_no_step() {
    let specs: [&dyn OptimizerSpec; 3] = [&Adam::default(), &AdamW::default(), &Sgd { momentum: 0.5 }];
    for spec in specs {
        let parameters = parameters();
        let mut optimizer = spec.build(&parameters).unwrap();
        let broken = gradients(&parameters, [0.0, f64::NAN, 0.0, 0.0]);
        let norm = optimizer.step(&broken, 0.1, Some(1.0)).unwrap();
        assert!(norm.before.is_nan() && norm.after.is_nan() && norm.mean.is_nan());
        assert_eq!(optimizer.steps(), 0, "{spec:?}");
        assert_eq!(values(&parameters, "layer.weight"), VALUES);
        for (name, tensor) in optimizer.state() {
            let sum: f64 = tensor
                .abs()
                .and_then(|t| t.sum_all())
                .and_then(|t| t.to_scalar())
                .unwrap();
            assert_eq!(sum, 0.0, "{name}");
        }
    }
}

#[test]
fn an_optimizer_goes_on_from_its_state() {
    let adam = [
        "first.layer.weight",
        "first.layer.bias",
        "second.layer.weight",
        "second.layer.bias",
    ];
    let specs: [(&dyn OptimizerSpec, &[&str]); 4] = [
        (&Adam::default(), &adam),
        (&AdamW::default(), &adam),
        (
            &Sgd { momentum: 0.5 },
            &["velocity.layer.weight", "velocity.layer.bias"],
        ),
        (&Sgd::default(), &[]),
    ];
    for (spec, expected) in specs {
        let step = |optimizer: &mut Box<dyn Optimizer>, parameters: &Parameters, step| {
            optimizer
                .step(&gradients(parameters, waves(step)), 0.1, Some(0.5))
                .unwrap();
        };
        let parameters = parameters();
        let mut optimizer = spec.build(&parameters).unwrap();
        step(&mut optimizer, &parameters, 1);
        step(&mut optimizer, &parameters, 2);
        // the state may share the optimizer's tensors, which change
        let state: Vec<(String, Tensor)> = optimizer.state();
        let state: Vec<_> = state
            .into_iter()
            .map(|(name, tensor)| (name, tensor.copy().unwrap()))
            .collect();
        let names: Vec<&str> = state.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, expected, "{spec:?}");
        let weights: Vec<Tensor> = parameters
            .iter()
            .map(|parameter| parameter.value().copy().unwrap())
            .collect();
        step(&mut optimizer, &parameters, 3);
        let whole = (values(&parameters, "layer.weight"), values(&parameters, "layer.bias"));

        for (parameter, value) in parameters.iter().zip(&weights) {
            parameter.set(value).unwrap();
        }
        let mut again = spec.build(&parameters).unwrap();
        let load = |name: &str, like: &Tensor| -> Result<Tensor> {
            let (_, tensor) = state.iter().find(|(known, _)| known == name).unwrap();
            assert_eq!(tensor.dims(), like.dims());
            Ok(tensor.clone())
        };
        again.restore(2, &load).unwrap();
        step(&mut again, &parameters, 3);
        assert_eq!(again.steps(), 3);
        let resumed = (values(&parameters, "layer.weight"), values(&parameters, "layer.bias"));
        assert_eq!(resumed, whole, "{spec:?}");
    }
}

#[test]
fn a_pattern_that_matches_nothing_names_the_nearest_parameter() {
    let spec = AdamW {
        decayed: DecayedParameters::Matching(vec!["*.bias".into(), "layer.wieght".into()]),
        ..AdamW::default()
    };
    let Err(error) = spec.build(&parameters()) else {
        panic!("no parameter is called so");
    };
    assert_eq!(
        error.to_string(),
        "train.decay: no parameter is called \"layer.wieght\", where * stands for any text; did you mean \"layer.weight\"?"
    );
}
