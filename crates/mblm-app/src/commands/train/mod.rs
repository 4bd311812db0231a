//! `mblm train`: trains from a configuration, or on a file with a preset.

mod about_data;
pub(crate) mod args;
mod checks;
mod dry_run;
mod files;
mod minutes;
mod piped;
pub(crate) mod ranks;
mod samples;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use candle_core::Device;
use clap::{ArgMatches, Args};
use mblm::checkpoint::{Transfer, Weights};
use mblm::config::{Architecture, Experiment, Preset, Summary};
use mblm::model::{Chunking, Loss, Model, ParameterSource, Seeded};
use mblm::train::outputs::timestamp;
use mblm::train::{Observer, Observers, Outcome, RunPlan, SavedState, Trainer, TrainingData, Workload, explain_memory};
use serde_json::json;

use self::args::{PresetArg, TrainArgs};
use self::checks::{check_data, check_early_stopping, check_length};
use self::files::{introduce, other_workers_files, run_files};
use self::piped::PipedData;
use self::ranks::Ranks;
use crate::command::{Command, Context, NextStep, Section, TaskCommands, parse};
use crate::config;
use crate::device;
use crate::file_kinds::total_size;
use crate::memory;
use crate::output::{self, grouped};
use crate::progress::{self, TrainingProgress};
use crate::room::check_room;
use crate::run_folder::{self, Resume, RunFolder};
use crate::signals::Signals;
use crate::usage::Usage;

/// The suggested command after training on bytes, if the data set suggests no other.
const NEXT_STEP: NextStep = NextStep::new("generate", " --temperature 0.7 --prompt TEXT");

/// The passes through the data after which a preset stops, if its own length is longer.
const MAX_PASSES: u64 = 10;
/// The shortest length of a preset's run, in bytes: smaller data are read more often.
const MIN_PRESET_BYTES: u64 = 300_000;

/// `mblm train`.
pub(crate) struct Train;

impl Command for Train {
    fn name(&self) -> &'static str {
        "train"
    }

    fn section(&self) -> Section {
        Section::Start
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        TrainArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args: TrainArgs = parse(matches)?;
        if let Some(config) = &args.config
            && let Some(kind) = context.run_kind(config)
        {
            return kind.train(config, &args, context);
        }
        ranks::run(args.timeout(), |ranks| run(&args, context, ranks))
    }
}

fn run(args: &TrainArgs, context: &Context, ranks: &Ranks) -> Result<ExitCode> {
    let group = &ranks.group;
    let resume = Resume::parse(args.resume.as_deref())?;
    let mut experiment = experiment(args, &resume, context)?;
    let device = device::open(&args.device)?;
    config::check_names(&experiment, context)?;
    ranks::check(&**group, &experiment, &device)?;
    run_folder::check_name(&experiment.io)?;
    check_length(&experiment)?;
    config::warn_of_kernels(experiment.params.architecture.model(), &device);
    let chunking = memory::chunking(&experiment, &device)?;
    let piped = PipedData::read(&mut experiment.io, context.quiet())?;
    experiment.train.precision = experiment.train.precision.chosen(&device);
    if args.dry_run && args.minutes.is_none() {
        return dry_run::run(args, &experiment, &device, chunking, context);
    }
    let work = Workload {
        chunking,
        ..Workload::of(&experiment, &device)
    };
    check_room(&work, &device)?;
    if let Some(minutes) = args.minutes {
        minutes::set_length(&mut experiment, minutes, &device, chunking, context)?;
        if args.dry_run {
            return dry_run::run(args, &experiment, &device, chunking, context);
        }
    }
    config::warn_of_precision(experiment.train.precision, &device);
    let found = ranks::found(&**group, || resume.find(&experiment, context))?;
    ranks::settle(
        &**group,
        &mut experiment,
        found.as_ref().and_then(|folder| folder.state.as_ref()),
    )?;
    let data = TrainingData::open(&experiment, context.tasks(), progress::opening_bar(context.quiet()))?;
    let state = found.as_ref().and_then(|folder| folder.state.as_ref());
    check_data(args, &experiment, &data, state)?;
    check_early_stopping(&experiment, &data)?;
    let source = first_values(&experiment, state)?;
    let model = Model::new(&experiment.params.architecture, context.blocks(), &*source, &device);
    let mut model = explain_memory(model, &experiment, &device, chunking)?;
    model.set_precision(experiment.train.precision)?;
    let model = Arc::new(model);
    let folder = match found {
        Some(folder) => folder,
        None => ranks::created(&**group, || {
            run_folder::create(&experiment.io, &experiment.to_yaml_string()?)
        })?,
    };
    if let Some(piped) = piped {
        piped.keep();
    }
    let run = Run {
        experiment,
        device,
        chunking,
        data,
        model,
        folder,
    };
    run.train(args, context, ranks)
}

/// Everything that a run needs, checked.
struct Run {
    experiment: Experiment,
    device: Device,
    chunking: Chunking,
    data: TrainingData,
    model: Arc<Model>,
    folder: RunFolder,
}

impl Run {
    /// Trains, and prints the result.
    fn train(&self, args: &TrainArgs, context: &Context, ranks: &Ranks) -> Result<ExitCode> {
        let (group, mut steps) = (&ranks.group, ranks.observer());
        let Self {
            experiment,
            device,
            chunking,
            data,
            model,
            folder,
        } = self;
        let trainer = trainer(args, experiment, model, data, folder, *chunking).among(group.clone());
        let signals = Signals::listen()?;
        if group.rank() > 0 {
            // rank 0 prints and writes
            trainer.run(folder.state.as_ref(), &mut steps, &signals.stop)?;
            return Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from));
        }
        let about_data = about_data::lines(data, experiment)?;
        let started = timestamp();
        let mut files = run_files(experiment, folder, device)?;
        let introduction = introduction(experiment, model, &trainer.plan(), folder, device);
        introduce(&mut files, introduction.into_iter().chain(about_data), context);
        let mut bars =
            TrainingProgress::new(context.quiet()).with_samples(samples::printed(args, experiment, model, context));
        let mut others = other_workers_files(experiment, folder)?;
        let mut observers: Vec<&mut dyn Observer> = vec![&mut files, &mut bars, &mut steps];
        observers.extend(others.iter_mut().map(|files| files as &mut dyn Observer));
        let mut observers = Observers(observers);
        let outcome = trainer.run(folder.state.as_ref(), &mut observers, &signals.stop);
        let outcome = explain_memory(outcome, experiment, device, *chunking);
        bars.finish();
        if let Err(error) = &outcome {
            files.note(&format!("error: {error}"));
        }
        let written = folder.write_end(
            experiment,
            &outcome,
            summary(model, device, experiment.train.worker_count(), started),
        );
        let outcome = outcome?;
        written?;
        finish(args, context, experiment, folder, &outcome, data)?;
        Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
    }
}

/// Creates the run in its folder.
fn trainer(
    args: &TrainArgs,
    experiment: &Experiment,
    model: &Arc<Model>,
    data: &TrainingData,
    folder: &RunFolder,
    chunking: Chunking,
) -> Trainer {
    let trainer = Trainer::new(experiment, model.clone(), data.clone(), &folder.path).with_chunking(chunking);
    match args.accept_data_change {
        true => trainer.accepting_other_data(),
        false => trainer,
    }
}

/// Returns the summary that is added to the configuration at the end of the run.
fn summary(model: &Model, device: &Device, workers: usize, started: String) -> Summary {
    Summary {
        training_start: started,
        training_end: timestamp(),
        num_workers: workers,
        devices: vec![device::name(device)],
        parameter_count: model.parameters().elements() as u64,
        error: None,
    }
}

/// Returns the source of the initial weights: the resumed state, the checkpoint of `resume`, or the
/// seed.
fn first_values(experiment: &Experiment, state: Option<&SavedState>) -> Result<Box<dyn ParameterSource>> {
    let seed = Seeded(experiment.train.seed);
    Ok(match (state, &experiment.resume) {
        (Some(saved), _) => Box::new(Weights::open(&saved.folder)?),
        (None, Some(resume)) => Box::new(Transfer::open(
            &resume.checkpoint_file,
            resume.migrate_embeddings,
            seed,
        )?),
        (None, None) => Box::new(seed),
    })
}

/// Builds the experiment from the arguments.
fn experiment(args: &TrainArgs, resume: &Resume, context: &Context) -> Result<Experiment> {
    let mut experiment = match (&args.config, &args.data) {
        (Some(config), _) => {
            config::read(config, &args.all_overrides(), context).map_err(|error| or_data(config, error))?
        }
        (None, None) if resume.config().is_some() => {
            let config = resume.config().unwrap_or_default();
            let mut experiment = config::read_as_written(&config, &args.all_overrides(), context)?;
            if let Resume::Path { run, .. } = resume {
                run_folder::find_data(run, &mut experiment.io);
            }
            // added by the stopped run; its saved state replaces them
            experiment.summary = None;
            experiment.resume = None;
            experiment
        }
        (None, Some(data)) => {
            let preset = match args.preset {
                PresetArg::Tiny => Preset::Tiny,
                PresetArg::Small => Preset::Small,
                PresetArg::Medium => Preset::Medium,
            };
            let mut experiment = preset.experiment(data, Path::new("runs"));
            // opening the data reports what cannot be read
            if let Some(bytes) = total_size(data).ok().filter(|bytes| *bytes > 0) {
                let most = bytes.saturating_mul(MAX_PASSES).max(MIN_PRESET_BYTES);
                experiment.train.target_elements = experiment.train.target_elements.min(most);
            }
            let name = format!("preset {}", preset.name());
            Experiment::from_yaml_str_with(
                &experiment.to_yaml_string()?,
                &name,
                &args.all_overrides(),
                context.blocks(),
            )?
        }
        (None, None) => {
            return Err(Usage(
                "give a configuration file, --data with a file to train on, or --resume with a run's folder".into(),
            )
            .into());
        }
    };
    if let Some(out) = &args.out {
        experiment.io.output_dir.clone_from(out);
    }
    if let Some(seed) = args.seed {
        experiment.train.seed = seed;
    }
    if let Some(memory) = args.memory {
        experiment.train.memory = Some(memory);
    }
    if let Some(precision) = args.precision {
        experiment.train.precision = precision.into();
    }
    config::expand_paths(&mut experiment.io)?;
    Ok(experiment)
}

/// Explains the error of an invalid configuration if the file seems to be data.
fn or_data(config: &Path, error: anyhow::Error) -> anyhow::Error {
    let ending = config.extension().map(|ending| ending.to_ascii_lowercase());
    let is_yaml = ending.is_none_or(|ending| ending == "yaml" || ending == "yml" || ending == "json");
    match is_yaml || !config.is_file() {
        true => error,
        false => Usage(format!(
            "{} is not a configuration; to train on it: mblm train --data {0} ({error:#})",
            config.display()
        ))
        .into(),
    }
}

/// Returns the lines that are printed before the run starts.
fn introduction(
    experiment: &Experiment,
    model: &Model,
    plan: &RunPlan,
    folder: &RunFolder,
    device: &Device,
) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} parameters on {}; {} batches of {} × {} bytes; output in {}",
        experiment.io.name_model,
        grouped(model.parameters().elements() as u64),
        device::name(device),
        grouped(plan.batches),
        experiment.train.batch_size,
        experiment.params.input_seq_len,
        folder.path.display()
    )];
    let context = experiment.params.architecture.model().context();
    if context > experiment.params.input_seq_len {
        lines.push(format!(
            "the model has {context} positions of bytes, and samples have {} (params.input_seq_len): it learns no longer contexts",
            experiment.params.input_seq_len
        ));
    }
    for damaged in folder.state.iter().flat_map(|saved| &saved.damaged) {
        lines.push(format!("a newer state cannot be used: {damaged}"));
    }
    match &folder.state {
        Some(saved) => lines.push(format!("going on from {}", saved.folder.display())),
        None if folder.resumed => lines.push("the run has no state yet: it begins anew".into()),
        None => {}
    }
    lines
}

/// Prints the result of the run and a sample.
fn finish(
    args: &TrainArgs,
    context: &Context,
    experiment: &Experiment,
    folder: &RunFolder,
    outcome: &Outcome,
    data: &TrainingData,
) -> Result<()> {
    let bits = |loss: Option<Loss>| loss.map(|loss| loss.bits_per_byte());
    let model = outcome.model_folder.as_ref().unwrap_or(&outcome.state_folder);
    let task = context.task_commands(&experiment.io.dataset_id);
    let is_text = task.is_none_or(|task| task.is_text());
    let sample = match experiment.params.architecture {
        Architecture::Decoder(_) if is_text && args.sample_bytes > 0 && !outcome.stopped => {
            Some(samples::of_folder(args, model, context)?)
        }
        _ => None,
    };
    if args.json {
        output::json(json!({
            "run": folder.path, "model": model, "state": outcome.state_folder, "batches": outcome.batches,
            "stopped": outcome.stopped, "training_bits_per_byte": bits(outcome.last_loss),
            "validation_bits_per_byte": bits(outcome.best), "test_bits_per_byte": bits(outcome.test), "sample": sample,
        }))?;
    } else {
        if let Some(sample) = sample {
            output::line(&format!("\na sample of the model:\n{sample}\n"))?;
        }
        let said = |what: &str, loss: Loss| {
            let (bits, unit) = (loss.bits_per_byte(), loss.bits_in_words());
            output::line(&format!("{what}: {bits:.3} {unit} per byte"))
        };
        if let Some(best) = outcome.best {
            let when = if outcome.stopped { ", at its best so far" } else { "" };
            said(&format!("held-out data{when}"), best)?;
        }
        if let Some(test) = outcome.test {
            said("test data", test)?;
            let comparable = is_text && !outcome.stopped && !test.weighted;
            if let Some(scale) = comparable.then(|| about_data::scale(data)).flatten() {
                output::line(&format!(
                    "the same data after the training data, bits per byte: {scale}, this model {:.2}",
                    test.bits_per_byte()
                ))?;
            }
        }
    }
    if !context.quiet() {
        say_what_next(
            experiment,
            folder,
            outcome,
            model,
            task.map_or(NEXT_STEP, TaskCommands::next_step),
        );
    }
    Ok(())
}

/// Prints the location of the model and the suggested next command.
fn say_what_next(experiment: &Experiment, folder: &RunFolder, outcome: &Outcome, model: &Path, next: NextStep) {
    let batches = grouped(outcome.batches);
    if outcome.stopped {
        output::note(&format!(
            "stopped after {batches} batches; the model as it is now is in {}",
            outcome.state_folder.display()
        ));
        output::note(&format!("go on: mblm train --resume {}", folder.path.display()));
        return;
    }
    output::note(&format!(
        "done after {batches} batches; the best model is in {}",
        model.display()
    ));
    if let Architecture::Decoder(_) = experiment.params.architecture {
        let NextStep { command, options } = next;
        output::note(&format!("try: mblm {command} -m {}{options}", folder.path.display()));
    }
}
