//! `mblm train`: a run from a configuration, or on a file with a preset.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use mblm::config::{Architecture, Experiment, IoConfig, Preset};
use mblm::data::Registry;
use mblm::generate::{Sampler, Sampling, TokenSet};
use mblm::model::{BlockRegistry, Model, Seeded};
use mblm::train::{Outcome, Plan, Trainer};
use serde_json::json;

use crate::args::{Cli, PresetArg, TrainArgs, Usage};
use crate::commands::{generate, inspect};
use crate::config;
use crate::datasets::open_data;
use crate::device;
use crate::output::{self, bytes, grouped};
use crate::progress::TrainingProgress;
use crate::signals::Signals;

pub(crate) fn run(args: &TrainArgs, cli: &Cli) -> Result<ExitCode> {
    let experiment = experiment(args)?;
    let device = device::open(&args.device)?;
    let (datasets, blocks) = (Registry::default(), BlockRegistry::default());
    config::check_names(&experiment, &datasets, &blocks)?;
    config::check_supported(&experiment)?;
    if args.dry_run {
        return dry_run(args, &experiment);
    }
    let data = open_data(&experiment, &datasets)?;
    let seed = Seeded(experiment.train.seed);
    let model = Model::new(&experiment.params.architecture, &blocks, &seed, &device)?;
    let folder = make_folder(&experiment)?;
    let trainer = Trainer::new(&experiment, &model, data, &folder);
    if !cli.quiet {
        introduce(&experiment, &model, &trainer.plan(), &folder, &device);
    }
    let signals = Signals::listen()?;
    let mut progress = TrainingProgress::new(cli.quiet, signals.stop.clone());
    let outcome = trainer.run(&mut progress, &signals.stop);
    progress.finish();
    let outcome = outcome?;
    finish(args, cli, &experiment, &outcome)?;
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// The experiment that the arguments describe.
fn experiment(args: &TrainArgs) -> Result<Experiment> {
    let mut experiment = match (&args.config, &args.data) {
        (Some(config), _) => config::read(config, &args.overrides)?,
        (None, Some(data)) => {
            let preset = match args.preset {
                PresetArg::Tiny => Preset::Tiny,
                PresetArg::Small => Preset::Small,
            };
            let experiment = preset.experiment(data, Path::new("runs"));
            let name = format!("preset {}", preset.name());
            Experiment::from_yaml_str(&experiment.to_yaml_string()?, &name, &args.overrides)?
        }
        (None, None) => {
            return Err(Usage("give a configuration file, or --data with a file to train on".into()).into());
        }
    };
    if let Some(out) = &args.out {
        experiment.io.output_dir.clone_from(out);
    }
    if let Some(seed) = args.seed {
        experiment.train.seed = seed;
    }
    Ok(experiment)
}

/// Makes the run's folder, `output_dir/name_model_<run id>`, with the configuration in it.
///
/// The run id is the environment's `JOB_ID`, whose folder may exist, else the time: the first second from now on whose
/// folder does not.
fn make_folder(experiment: &Experiment) -> Result<PathBuf> {
    let IoConfig {
        output_dir, name_model, ..
    } = &experiment.io;
    let named = |id: &dyn std::fmt::Display| output_dir.join(format!("{name_model}_{id}"));
    let failed = |folder: &Path, error| mblm::Error::file(folder, format!("cannot make the run's folder: {error}"));
    std::fs::create_dir_all(output_dir).map_err(|error| failed(output_dir, error))?;
    let folder = match std::env::var("JOB_ID") {
        Ok(id) => {
            let folder = named(&id);
            std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
            folder
        }
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let mut id = now.map_or(0, |elapsed| elapsed.as_secs());
            loop {
                let folder = named(&id);
                match std::fs::create_dir(&folder) {
                    Ok(()) => break folder,
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => id += 1,
                    Err(error) => return Err(failed(&folder, error).into()),
                }
            }
        }
    };
    let config = experiment.to_yaml_string()?;
    mblm::checkpoint::atomic::write(&folder.join("config.yaml"), |out| out.write_all(config.as_bytes()))?;
    Ok(folder)
}

fn introduce(experiment: &Experiment, model: &Model, plan: &Plan, folder: &Path, device: &Device) {
    output::note(&format!(
        "{}: {} parameters on {}; {} batches of {} × {} bytes; output in {}",
        experiment.io.name_model,
        grouped(model.parameters().elements() as u64),
        device::name(device),
        grouped(plan.batches),
        experiment.train.batch_size,
        experiment.params.input_seq_len,
        folder.display()
    ));
}

/// What a run would be, without running it.
fn dry_run(args: &TrainArgs, experiment: &Experiment) -> Result<ExitCode> {
    let architecture = &experiment.params.architecture;
    let plan = Plan::new(&experiment.train, experiment.params.input_seq_len, 1);
    let step_bytes = (experiment.train.batch_size * experiment.params.input_seq_len) as u64
        * experiment.train.gradient_accumulate_every as u64;
    let memory = mblm::train::estimate_memory(experiment);
    if args.json {
        output::json(json!({
            "kind": architecture.kind(), "stages": inspect::stages(architecture),
            "parameters": architecture.parameter_counts().total, "batches": plan.batches, "steps": plan.steps,
            "bytes_per_step": step_bytes, "memory_bytes": memory,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = args
        .config
        .clone()
        .unwrap_or_else(|| PathBuf::from(&experiment.io.name_model));
    inspect::print_architecture(&name, architecture)?;
    output::line(&format!(
        "{} batches, {} gradient steps of {} bytes each",
        grouped(plan.batches),
        grouped(plan.steps),
        grouped(step_bytes)
    ))?;
    output::line(&format!("about {} of memory", bytes(memory)))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how the run ended and shows a sample.
fn finish(args: &TrainArgs, cli: &Cli, experiment: &Experiment, outcome: &Outcome) -> Result<()> {
    let bits = |loss: Option<mblm::model::Loss>| loss.map(|loss| loss.bits_per_byte());
    let sample = match experiment.params.architecture {
        Architecture::Decoder(_) if args.sample_bytes > 0 && !outcome.stopped => Some(sample(args, outcome)?),
        _ => None,
    };
    if args.json {
        output::json(json!({
            "model": outcome.model_folder, "batches": outcome.batches, "stopped": outcome.stopped,
            "training_bits_per_byte": bits(outcome.last_loss), "validation_bits_per_byte": bits(outcome.best),
            "test_bits_per_byte": bits(outcome.test), "sample": sample,
        }))?;
    } else {
        if let Some(sample) = sample {
            output::line(&format!("\na sample of the model:\n{sample}\n"))?;
        }
        if let Some(best) = bits(outcome.best) {
            output::line(&format!("held-out data: {best:.3} bits per byte"))?;
        }
        if let Some(test) = bits(outcome.test) {
            output::line(&format!("test data: {test:.3} bits per byte"))?;
        }
    }
    if !cli.quiet {
        let how = if outcome.stopped { "stopped" } else { "done" };
        output::note(&format!(
            "{how} after {} batches; the model is in {}",
            grouped(outcome.batches),
            outcome.model_folder.display()
        ));
        if let Architecture::Decoder(_) = experiment.params.architecture {
            output::note(&format!(
                "try: mblm generate -m {} --prompt TEXT",
                outcome.model_folder.display()
            ));
        }
    }
    Ok(())
}

/// What the best model says by itself.
fn sample(args: &TrainArgs, outcome: &Outcome) -> Result<String> {
    let device = device::open(&args.device)?;
    let model = Model::open(&outcome.model_folder, &BlockRegistry::default(), &device)?;
    let sampling = Sampling {
        temperature: 0.7,
        allowed: TokenSet::bytes(),
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling, 0, 0)?;
    let mut bytes = Vec::new();
    let model = model.decoder("a sample")?;
    let longest = model.config().longest_input().unwrap_or(usize::MAX);
    generate::continue_prompt(
        model,
        b"",
        args.sample_bytes.min(longest),
        &mut sampler,
        &mut || true,
        |id| {
            bytes.extend(u8::try_from(id));
            Ok(())
        },
    )?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
