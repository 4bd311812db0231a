//! Samples of the model: a line after each validation, a longer one at the end of the run.
//!
//! Both begin without a prompt, have temperature 0.7 and a seed of their own, and leave the run's
//! random numbers alone.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mblm::config::{Architecture, Experiment};
use mblm::generate::{Generator, Sampling, SamplingParams, StopRules, TokenSet, complete};
use mblm::model::Model;

use super::args::TrainArgs;
use crate::command::Context;
use crate::device;
use crate::progress::Sampler;

/// The length in bytes of a sample while training: one line of a terminal.
const LINE: usize = 72;

/// Returns the sampler of the run's progress; `None` if samples are off, or the data are no text.
pub(super) fn printed(
    args: &TrainArgs,
    experiment: &Experiment,
    model: &Arc<Model>,
    context: &Context,
) -> Option<Sampler> {
    let task = context.task_commands(&experiment.io.dataset_id);
    let is_text = task.is_none_or(|task| task.is_text());
    let decoder = matches!(experiment.params.architecture, Architecture::Decoder(_));
    if args.sample_bytes == 0 || !is_text || !decoder {
        return None;
    }
    let (model, bytes) = (model.clone(), args.sample_bytes.min(LINE));
    Some(Box::new(move || sample(&model, bytes).ok()))
}

/// Generates a sample from a model on disk.
pub(super) fn of_folder(args: &TrainArgs, model: &Path, context: &Context) -> Result<String> {
    let device = device::open(&args.device)?;
    sample(&Model::open(model, context.blocks(), &device)?, args.sample_bytes)
}

/// Generates up to `bytes` bytes of text without a prompt.
fn sample(model: &Model, bytes: usize) -> Result<String> {
    let model = model.decoder("a sample")?;
    let longest = model.config().longest_input().unwrap_or(usize::MAX);
    let mut params = SamplingParams::new(bytes.min(longest));
    params.sampling = Sampling {
        temperature: 0.7,
        allowed: TokenSet::bytes(),
        ..Sampling::default()
    };
    let generator = Generator::new(model.clone())?;
    let mut text = String::new();
    for piece in complete(&generator, b"", &params, &StopRules::default())? {
        text += &piece?.text();
    }
    Ok(text)
}
