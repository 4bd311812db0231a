//! Sets the length of a run from a time limit, by the measured speed of a step.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;
use mblm::config::Experiment;
use mblm::model::{Chunking, Model, Seeded};
use mblm::train::RunPlan;

use crate::command::Context;
use crate::measure;
use crate::output::{self, grouped};

/// The time of the speed measurement, as a share of the run.
const SHARE_MEASURED: f64 = 0.02;
/// The maximum time of the speed measurement.
const LONGEST: Duration = Duration::from_secs(10);
/// The share of the time for training steps; the rest is for validation, checkpoints and the final
/// sample.
const SHARE_OF_STEPS: f64 = 0.88;

/// Sets `train.target_elements` so that the run takes about `minutes`.
///
/// # Errors
/// The model cannot be built or trained on the device.
pub(super) fn set_length(
    experiment: &mut Experiment,
    minutes: f64,
    device: &Device,
    chunking: Chunking,
    context: &Context,
) -> Result<()> {
    let (train, len) = (&experiment.train, experiment.params.input_seq_len);
    let seed = Seeded(train.seed);
    let mut model = Model::new(&experiment.params.architecture, context.blocks(), &seed, device)?;
    model.set_precision(train.precision)?;
    let time = Duration::from_secs_f64(minutes * 60.0 * SHARE_MEASURED).min(LONGEST);
    let recipe = (train.precision, chunking);
    let found = measure::training(&Arc::new(model), recipe, (train.batch_size, len), time, &|| ())?;
    let batches = (minutes * 60.0 * SHARE_OF_STEPS / found.step.median).max(1.0) as u64;
    let elements = RunPlan::new(train, len).elements_per_batch;
    experiment.train.target_elements = batches.saturating_mul(elements);
    if !context.quiet() {
        output::note(&format!(
            "{minutes} minutes at {:.3} seconds a step: {} steps, train.target_elements={}",
            found.step.median,
            grouped(batches),
            experiment.train.target_elements
        ));
    }
    Ok(())
}
