//! Fixtures of a training run: equal weights and batches give equal losses, rates and norms.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{Comparison, Fixture, LOSS_BOUND, NORM_BOUND, RATE_BOUND};
use crate::Result;
use crate::blocks::BlockRegistry;
use crate::config::{Architecture, Precision};
use crate::model::{Model, ModelBatch};
use crate::train::{Adam, Cosine, Learner, Recipe};

#[derive(Deserialize)]
struct RecipeOfFixture {
    betas: (f64, f64),
    eps: f64,
    learning_rate: f64,
    gradient_accumulate_every: usize,
    gradient_clipping: Option<f64>,
    batch_iterations: u64,
    batch_size: usize,
    input_seq_len: usize,
    warmup_steps_perc: f64,
}

impl RecipeOfFixture {
    fn recipe(&self) -> Recipe {
        let steps = self.batch_iterations / self.gradient_accumulate_every as u64;
        let adam = Adam {
            beta1: self.betas.0,
            beta2: self.betas.1,
            eps: self.eps,
        };
        let schedule = Cosine::new(self.learning_rate, steps, self.warmup_steps_perc);
        let recipe = Recipe::new(self.learning_rate)
            .with_optimizer(adam)
            .with_schedule(schedule)
            .with_grad_accum(self.gradient_accumulate_every)
            .with_precision(Precision::Float32);
        Recipe {
            max_grad_norm: self.gradient_clipping,
            ..recipe
        }
    }
}

pub(super) fn run(fixture: &Fixture, registry: &BlockRegistry, device: &Device) -> Result<Vec<Comparison>> {
    let given: RecipeOfFixture = fixture.json("recipe")?;
    let architecture: Architecture = fixture.json("config")?;
    let model = Arc::new(Model::new(
        &architecture,
        registry,
        &fixture.parameters("init."),
        device,
    )?);
    let mut learner = Learner::new(model.clone(), given.recipe())?;
    let data = fixture.ids("data")?;
    let (losses, rates) = (fixture.numbers("losses")?, fixture.numbers("lrs")?);
    let norms = fixture.numbers("grad_norms")?;
    let (mut loss_errors, mut rate_errors, mut norm_errors) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..given.batch_iterations as usize {
        let of_batch = given.batch_size * given.input_seq_len;
        let ids = data[index * of_batch..(index + 1) * of_batch].to_vec();
        let batch = ModelBatch::new(ids, given.batch_size, given.input_seq_len);
        let learned = learner.learn(&batch, index as u64)?;
        let place = format!("batch {index}");
        loss_errors.push((place.clone(), (learned.loss.mean - losses[index]).abs()));
        rate_errors.push((place, relative(learned.lr, rates[index])));
        if let Some(norm) = learned.norm {
            let step = norm_errors.len();
            norm_errors.push((format!("step {step}"), relative(norm.before, norms[step])));
        }
    }
    let mut finals = Vec::new();
    for parameter in model.parameters().iter() {
        let expected = fixture.tensor(&format!("final.{}", parameter.name()))?;
        finals.push((
            parameter.name().to_string(),
            largest_difference(parameter.value(), expected)?,
        ));
    }
    Ok(vec![
        Comparison::worst("losses (nats)", loss_errors, LOSS_BOUND),
        Comparison::worst("learning rates", rate_errors, RATE_BOUND),
        Comparison::worst("gradient norms", norm_errors, NORM_BOUND),
        // Adam divides by the gradient's size: rounding a tiny one moves a weight by up to a step
        Comparison::worst("final weights", finals, given.learning_rate),
    ])
}

fn relative(found: f64, expected: f64) -> f64 {
    (found - expected).abs() / expected.abs().max(1e-12)
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let found = found.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let difference = (found - expected.to_dtype(DType::F64)?)?.abs()?;
    Ok(difference.flatten_all()?.max(0)?.to_scalar()?)
}
