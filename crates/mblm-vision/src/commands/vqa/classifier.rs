//! `mblm vqa eval` of the CNN + LSTM baseline: its best of all answers to each question.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::classifier::ClassifierExperiment;
use crate::classifier::{CnnLstm, ImageQuestions};
use crate::clevr::ANSWERS;
use crate::vqa::Answered;
use anyhow::Result;
use mblm::data::{Dataset, Loader, LoaderOptions, Order, Split};

use super::args::VqaEvalArgs;
use super::found::Found;
use crate::commands::baseline;
use mblm_app::command::Context;
use mblm_app::signals::Signals;
use mblm_app::{config, device, progress};

/// Returns the baseline's answers and the data set of the questions.
pub(super) fn answers(
    args: &VqaEvalArgs,
    config: &Path,
    split: Split,
    signals: &Signals,
    context: &Context,
) -> Result<Found> {
    let mut experiment = config::usage(ClassifierExperiment::from_file(config, &[]))?;
    if let Some(data) = &args.data {
        experiment.io.dataset_dir.clone_from(data);
    }
    let network = CnnLstm::open(&args.model.model, &device::open(&args.compute.device)?)?;
    let clevr = baseline::open(&experiment, split, context)?;
    let data = Arc::new(ImageQuestions::new(
        clevr.clone(),
        network.words().clone(),
        network.values(),
    )?);
    let options = LoaderOptions::evaluation(args.batch_size, Order::Sequential);
    let limit = args.limit.unwrap_or(usize::MAX);
    let questions = limit.min(data.len(0));
    let bar = progress::count_bar(questions as u64, "questions", context.quiet());
    let mut answered = Vec::with_capacity(questions);
    for batch in Loader::new(data, options)? {
        if answered.len() >= questions || signals.stop.load(Ordering::Relaxed) {
            break;
        }
        let batch = batch?;
        for (index, answer) in batch.samples.iter().zip(network.answer(&batch)?) {
            let given = ANSWERS.get(answer).copied().unwrap_or_default();
            answered.push(Answered::chosen(&clevr, *index, given)?);
        }
        answered.truncate(questions);
        bar.set_position(answered.len() as u64);
    }
    bar.finish_and_clear();
    Ok(Found {
        stopped: answered.len() < questions,
        answered,
        data: clevr,
        folder: experiment.io.dataset_dir,
    })
}
