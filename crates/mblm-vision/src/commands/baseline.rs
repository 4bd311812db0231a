//! `mblm train` with a configuration of the CNN + LSTM baseline (`cnn_lstm` in the place of
//! `params`).

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::classifier::{ANSWER, ClassifierExperiment, CnnLstm, ImageQuestions, Words};
use crate::clevr::Clevr;
use anyhow::Result;
use indicatif::ProgressBar;
use mblm::candle::Device;
use mblm::config::IoConfig;
use mblm::data::{DatasetArgs, Split};
use mblm::model::Seeded;
use mblm::train::outputs::{RunFiles, RunFilesOptions};
use mblm::train::{Event, Metric, Observer, Observers, Outcome, RunConfig, RunPlan, Trainer, TrainingData};
use serde_json::json;

use mblm_app::TrainArgs;
use mblm_app::Usage;
use mblm_app::command::{Context, RunKind};
use mblm_app::output::{self, grouped};
use mblm_app::progress::{self, count_bar};
use mblm_app::run_folder;
use mblm_app::signals::Signals;
use mblm_app::{config, device};

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
        "`mblm train` without --resume, `mblm data check` and, for its runs, `mblm vqa eval`"
    }

    fn unit(&self) -> &str {
        "answer"
    }

    fn train(&self, config: &Path, args: &TrainArgs, context: &Context) -> Result<ExitCode> {
        run(config, args, context)
    }

    fn data(&self, config: &Path, overrides: &[String], context: &Context) -> Result<IoConfig> {
        Ok(open_config(config, overrides, context)?.io)
    }
}

/// Fails for options that apply to byte models alone.
fn refuse_options(args: &TrainArgs) -> Result<()> {
    let not = [
        ("--resume", args.resume.is_some()),
        ("--memory", args.memory.is_some()),
        ("--precision", args.precision.is_some()),
    ];
    if let Some((name, _)) = not.into_iter().find(|(_, given)| *given) {
        let message = format!(
            "{name}: the CNN + LSTM baseline does not support this option; it is always trained from the start, in float32"
        );
        return Err(Usage(message).into());
    }
    Ok(())
}

fn open_config(path: &Path, overrides: &[String], context: &Context) -> Result<ClassifierExperiment> {
    let text = config::usage(context.config_text(path))?;
    let name = path.display().to_string();
    config::usage(ClassifierExperiment::from_yaml_str(&text, &name, overrides))
}

/// Reads the configuration and applies the arguments to it.
fn read(path: &Path, args: &TrainArgs, context: &Context) -> Result<ClassifierExperiment> {
    let mut experiment = open_config(path, &args.all_overrides(), context)?;
    if let Some(out) = &args.out {
        experiment.io.output_dir.clone_from(out);
    }
    if let Some(seed) = args.seed {
        experiment.train.seed = seed;
    }
    config::expand_paths(&mut experiment.io)?;
    run_folder::check_name(&experiment.io)?;
    Ok(experiment)
}

fn run(path: &Path, args: &TrainArgs, context: &Context) -> Result<ExitCode> {
    refuse_options(args)?;
    let experiment = read(path, args, context)?;
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
            "io.dataset_args: a classifier needs images of one size, as pixels: set resize_to_w and resize_to_h, and remove \
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
    let training = Arc::new(ImageQuestions::new(training, words.clone(), values)?);
    let validation = Arc::new(ImageQuestions::new(validation, words, values)?);
    let parameters = network.parameters().elements();
    let plan = RunPlan::new(&experiment.train, 1);
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
    let introduction = introduction(&experiment, parameters, &plan, &device, &folder.path);
    files.note(&introduction);
    if !context.quiet() {
        output::note(&introduction);
    }
    let signals = Signals::listen()?;
    let begun = Instant::now();
    let mut watch = Watch::new(plan.batches * experiment.train.batch_size as u64, context.quiet());
    let data = TrainingData {
        train: training,
        other_workers: Vec::new(),
        validation: Some(validation),
        test: None,
    };
    let outcome = Trainer::new(config, Arc::new(network), data, &folder.path).run(
        None,
        &mut Observers(vec![&mut files, &mut watch]),
        &signals.stop,
    );
    watch.bar.finish_and_clear();
    if let Err(error) = &outcome {
        files.note(&format!("error: {error}"));
    }
    finish(args, context, &folder.path, &outcome?, &watch, begun.elapsed())?;
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Prints the introduction of a run.
fn introduction(
    experiment: &ClassifierExperiment,
    parameters: usize,
    plan: &RunPlan,
    device: &Device,
    folder: &Path,
) -> String {
    format!(
        "{}: {} parameters on {}; {} batches of {} questions; output in {}",
        experiment.io.name_model,
        grouped(parameters as u64),
        device::name(device),
        grouped(plan.batches),
        experiment.train.batch_size,
        folder.display()
    )
}

/// Opens a split of the configured data.
pub(crate) fn open(experiment: &ClassifierExperiment, split: Split, context: &Context) -> Result<Arc<Clevr>> {
    let args = DatasetArgs {
        options: experiment.io.dataset_args.clone().unwrap_or_default(),
        on_opening: progress::opening_bar(context.quiet()),
        // samples of ids, which have a limited length, are for byte models alone
        ..DatasetArgs::new(&experiment.io.dataset_dir, split, DatasetArgs::UNBOUNDED)
    };
    match Clevr::open(&args)? {
        Some(clevr) => Ok(Arc::new(clevr)),
        None => Err(Usage(format!("clevr has no {split} split with answers; use validation")).into()),
    }
}

/// Accuracies by number of batches, the measure of a baseline run.
type Curve = Vec<(u64, f64)>;

/// Reports the progress of a run.
struct Watch {
    bar: ProgressBar,
    quiet: bool,
    curve: Curve,
    /// The accuracy of the best model.
    best: Option<f64>,
}

impl Watch {
    fn new(questions: u64, quiet: bool) -> Self {
        Self {
            bar: count_bar(questions, "questions", quiet),
            quiet,
            curve: Curve::new(),
            best: None,
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
                if evaluation.best {
                    self.best = Some(accuracy);
                }
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
    outcome: &Outcome,
    watch: &Watch,
    time: Duration,
) -> Result<()> {
    if args.json {
        let curve = watch.curve.iter();
        output::json(json!({
            "run": folder, "model": outcome.model_folder, "batches": outcome.batches, "validation_accuracy": watch.best,
            "seconds": time.as_secs_f64(),
            "curve": curve.map(|(batches, accuracy)| json!({"batches": batches, "accuracy": accuracy})).collect::<Vec<_>>(),
        }))?;
    } else if let Some(accuracy) = watch.best {
        output::line(&format!("held-out questions: {:.1} % right", 100.0 * accuracy))?;
    }
    if !context.quiet() {
        match outcome.model_folder {
            Some(_) => output::note(&format!("try: mblm vqa eval -m {}", folder.display())),
            None => output::note("stopped before the first validation: no model was kept"),
        }
    }
    Ok(())
}
