//! `mblm train` with a configuration of the CNN + LSTM baseline (`cnn_lstm` in the place of `params`).

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use indicatif::ProgressBar;
use mblm::classifier::{self, CnnLstm, Learned, PictureQuestions, Words};
use mblm::config::{ClassifierExperiment, IoConfig};
use mblm::data::clevr::Clevr;
use mblm::data::{DatasetArgs, Split};
use mblm::model::Seeded;
use mblm::train::outputs::{RunFiles, RunFilesOptions};
use mblm::train::{Event, Metric, Observer, Observers, RunConfig, RunPlan};
use mblm::{Counted, Unit};
use serde_json::json;

use crate::command::{Context, RunKind};
use crate::commands::train::args::TrainArgs;
use crate::output::{self, grouped};
use crate::progress::{self, count_bar};
use crate::run_folder;
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{config, device};

/// What the network predicts one by one.
const ANSWER: Unit = Unit {
    singular: "answer",
    plural: "answers",
    counted: Counted::Samples,
};

/// Runs of the baseline.
pub(super) struct Baseline;

impl RunKind for Baseline {
    fn key(&self) -> &str {
        "cnn_lstm"
    }

    fn name(&self) -> &str {
        "the CNN + LSTM baseline"
    }

    fn commands(&self) -> &str {
        "`mblm train` from its beginning, `mblm data check` and, with a run of it, `mblm vqa eval`"
    }

    fn unit(&self) -> &str {
        "answer"
    }

    fn train(&self, config: &Path, args: &TrainArgs, context: &Context) -> Result<ExitCode> {
        run(config, args, context)
    }

    fn data(&self, config: &Path, overrides: &[String]) -> Result<IoConfig> {
        Ok(config::usage(ClassifierExperiment::from_file(config, overrides))?.io)
    }
}

fn run(path: &Path, args: &TrainArgs, context: &Context) -> Result<ExitCode> {
    let not = [
        ("--resume", args.resume.is_some()),
        ("--memory", args.memory.is_some()),
        ("--precision", args.precision.is_some()),
    ];
    if let Some((name, _)) = not.into_iter().find(|(_, given)| *given) {
        let message = format!("{name}: the CNN + LSTM baseline has no such option; it is trained whole, in float32");
        return Err(Usage(message).into());
    }
    let mut experiment = config::usage(ClassifierExperiment::from_file(path, &args.overrides))?;
    if let Some(out) = &args.out {
        experiment.io.output_dir.clone_from(out);
    }
    if let Some(seed) = args.seed {
        experiment.train.seed = seed;
    }
    let device = device::open(&args.device)?;
    let training = open(&experiment, Split::Train, context)?;
    let validation = open(&experiment, Split::Validation, context)?;
    let words = Words::of(training.questions().map(|question| &*question.text));
    let options = training.options();
    let (Some(height), Some(width), None) = (
        options.resize_to_h,
        options.resize_to_w,
        options.enable_jpeg_stream_with_quality,
    ) else {
        return Err(Usage(
            "io.dataset_args: a classifier needs pictures of one size, as pixels: give resize_to_w and resize_to_h, and no \
             enable_jpeg_stream_with_quality"
                .into(),
        )
        .into());
    };
    let size = (height as usize, width as usize);
    let network = CnnLstm::new(
        &experiment.cnn_lstm,
        words.clone(),
        size,
        &Seeded(experiment.train.seed),
        &device,
    )?;
    let values = network.values();
    let training = Arc::new(PictureQuestions::new(training, words.clone(), values)?);
    let validation = Arc::new(PictureQuestions::new(validation, words, values)?);
    let parameters = network.parameters().elements();
    let plan = RunPlan::new(&experiment.train, 1, 1);
    if args.dry_run {
        output::line(&format!(
            "CNN + LSTM: {} parameters, {} batches of {} questions",
            grouped(parameters as u64),
            grouped(plan.batches),
            experiment.train.batch_size
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = run_folder::create(&experiment.io, &experiment.to_yaml_string()?)?;
    let config = RunConfig {
        unit: ANSWER,
        ..RunConfig::new(experiment.io.clone(), experiment.train.clone(), 1)
    };
    let mut files = RunFiles::create(&folder.path, RunFilesOptions::from(&config))?.on(&device);
    let introduction = format!(
        "{}: {} parameters on {}; {} batches of {} questions; output in {}",
        experiment.io.name_model,
        grouped(parameters as u64),
        device::name(&device),
        grouped(plan.batches),
        experiment.train.batch_size,
        folder.path.display()
    );
    files.note(&introduction);
    if !context.quiet() {
        output::note(&introduction);
    }
    let signals = Signals::listen()?;
    let begun = Instant::now();
    let mut watch = Watch::new(plan.batches * experiment.train.batch_size as u64, context.quiet());
    let learned = classifier::train(
        &experiment,
        &network,
        training,
        &validation,
        &folder.path,
        &mut Observers(vec![&mut files, &mut watch]),
        &signals.stop,
    );
    watch.bar.finish_and_clear();
    if let Err(error) = &learned {
        files.note(&format!("error: {error}"));
    }
    let learned = learned?;
    finish(
        args,
        context,
        &folder.path,
        &learned,
        &watch.curve,
        begun.elapsed().as_secs_f64(),
    )?;
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// A split of the data, as the configuration says.
pub(crate) fn open(experiment: &ClassifierExperiment, split: Split, context: &Context) -> Result<Arc<Clevr>> {
    let args = DatasetArgs {
        options: experiment.io.dataset_args.clone().unwrap_or_default(),
        on_opening: progress::opening_bar(context.quiet()),
        // samples of ids, which have to fit, are a byte model's
        ..DatasetArgs::new(&experiment.io.dataset_dir, split, usize::MAX >> 32)
    };
    match Clevr::open(&args)? {
        Some(clevr) => Ok(Arc::new(clevr)),
        None => Err(Usage(format!("clevr has no {split} split with answers; use validation")).into()),
    }
}

/// Accuracies by batches: what a run of this kind is judged by.
type Curve = Vec<(u64, f64)>;

/// Shows how a run goes.
struct Watch {
    bar: ProgressBar,
    quiet: bool,
    curve: Curve,
}

impl Watch {
    fn new(questions: u64, quiet: bool) -> Self {
        Self {
            bar: count_bar(questions, "questions", quiet),
            quiet,
            curve: Curve::new(),
        }
    }
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) -> mblm::Result<()> {
        match event {
            Event::Batch(report) => {
                self.bar.inc(report.samples as u64);
                self.bar
                    .set_message(format!("loss {:.3} nats an answer", report.loss.mean));
            }
            Event::Evaluated(evaluation) => {
                let (batches, accuracy) = (
                    evaluation.cum_batch + 1,
                    evaluation.metric.as_ref().map_or(0.0, Metric::value),
                );
                self.curve.push((batches, accuracy));
                if !self.quiet {
                    let best = if evaluation.best { ", the best so far" } else { "" };
                    let line = format!(
                        "held-out questions: {:.1} % right after batch {}{best}",
                        100.0 * accuracy,
                        grouped(batches)
                    );
                    self.bar.suspend(|| output::note(&line));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn finish(
    args: &TrainArgs,
    context: &Context,
    folder: &Path,
    learned: &Learned,
    curve: &Curve,
    seconds: f64,
) -> Result<()> {
    let (model, accuracy) = learned.best.clone().unzip();
    if args.json {
        output::json(json!({
            "run": folder, "model": model, "batches": learned.batches, "validation_accuracy": accuracy, "seconds": seconds,
            "curve": curve.iter().map(|(batches, accuracy)| json!({"batches": batches, "accuracy": accuracy})).collect::<Vec<_>>(),
        }))?;
    } else if let Some(accuracy) = accuracy {
        output::line(&format!("held-out questions: {:.1} % right", 100.0 * accuracy))?;
    }
    if !context.quiet() {
        match model {
            Some(_) => output::note(&format!("try: mblm vqa eval -m {}", folder.display())),
            None => output::note("stopped before the first validation: no model was kept"),
        }
    }
    Ok(())
}
