//! Reading configurations, and checking in them what only the program can know: names, and what it can do.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use mblm::config::{Experiment, IoConfig, ModelConfig, Precision, Vocabulary};
use mblm::data::{DatasetArgs, Split};
use mblm::model::{Model, without_kernels};

use crate::command::Context;
use crate::usage::Usage;

/// Reads a configuration file. One that cannot be read is wrong usage, as is one that cannot be used.
pub fn read(path: &Path, overrides: &[String], context: &Context) -> Result<Experiment> {
    if let Some(kind) = context.run_kind(path) {
        return Err(Usage(format!(
            "{}: expected the configuration of a model of bytes, with params; this is one of {}, which is for {}",
            path.display(),
            kind.name(),
            kind.commands()
        ))
        .into());
    }
    let name = path.display().to_string();
    let text = usage(context.config_text(path))?;
    let mut experiment = usage(Experiment::from_yaml_str_with(
        &text,
        &name,
        overrides,
        context.blocks(),
    ))?;
    expand_paths(&mut experiment.io)?;
    if let Some(resume) = &mut experiment.resume {
        resume.checkpoint_file = expanded(&resume.checkpoint_file)?;
    }
    Ok(experiment)
}

/// Puts the home folder for a `~` at the beginning of the paths, and the values of environment variables (`$NAME`, `${NAME}`).
///
/// # Errors
/// A variable that is not set: a folder of its name would be made.
pub fn expand_paths(io: &mut IoConfig) -> Result<()> {
    for path in [&mut io.dataset_dir, &mut io.output_dir] {
        *path = expanded(path)?;
    }
    Ok(())
}

fn expanded(path: &Path) -> Result<PathBuf> {
    let Some(text) = path.to_str().filter(|_| !path.exists()) else {
        return Ok(path.into());
    };
    let variable = |name: &str| {
        std::env::var(name).map_err(|_| {
            Usage(format!(
                "{}: expected a path, but the environment variable {name} is not set; set it, or give the path in full",
                path.display()
            ))
        })
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    if let Some(behind) = text
        .strip_prefix('~')
        .filter(|behind| behind.is_empty() || behind.starts_with('/'))
    {
        out += &variable("HOME")?;
        rest = behind;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out += before;
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(found) => found,
            None => {
                let end = after.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        match name {
            "" => out.push('$'),
            name => out += &variable(name)?,
        }
        rest = behind;
    }
    out += rest;
    Ok(out.into())
}

/// What was read from a configuration file, where one that cannot be read is wrong usage.
pub fn usage<T>(read: mblm::Result<T>) -> Result<T> {
    read.map_err(|error| match error {
        mblm::Error::File { .. } => Usage(error.to_string()).into(),
        other => other.into(),
    })
}

/// Checks that the experiment's data set and blocks exist, without opening or building any.
pub fn check_names(experiment: &Experiment, context: &Context) -> Result<()> {
    let name = experiment.io.dataset_id.as_str();
    if !context.tasks().names().any(|known| known == name) {
        // fails on the name before it looks at anything else
        context.tasks().open(name, &DatasetArgs::new("", Split::Train, 1))?;
    }
    Ok(experiment.params.architecture.clone().resolve(context.blocks())?)
}

/// Fails if the configuration is not one that this model was trained with, on the data set of this name, which `what` needs.
pub fn check_trained(experiment: &Experiment, model: &Model, dataset: &str, what: &str) -> Result<()> {
    if experiment.io.dataset_id != dataset {
        return Err(Usage(format!(
            "the configuration's io.dataset_id is {}: expected {dataset}; {what} needs a model that was trained on it",
            experiment.io.dataset_id
        ))
        .into());
    }
    let (ours, theirs) = (
        Vocabulary::of(&model.architecture()),
        Vocabulary::of(&experiment.params.architecture),
    );
    if ours != theirs {
        return Err(Usage(format!(
            "the configuration has another vocabulary, {theirs}, than the model, {ours}; give the one that it was trained with"
        ))
        .into());
    }
    let longest = model.architecture().model().longest_input();
    match longest.filter(|longest| experiment.params.input_seq_len > *longest) {
        Some(longest) => Err(Usage(format!(
            "the configuration's input_seq_len is {}, but the model has fixed positions for {longest} ids",
            experiment.params.input_seq_len
        ))
        .into()),
        None => Ok(()),
    }
}

/// Says so where bfloat16 products are asked for and this processor is no faster with them.
pub fn warn_of_precision(precision: Precision, device: &Device) {
    if device.is_cpu() && precision == Precision::Bf16 && !mblm::bf16_is_fast() {
        tracing::warn!(
            "this processor is no faster with bfloat16 (AMD's with AVX-512-BF16 and Intel's with AMX are): training rounds as \
             asked, but is slower than with --precision float32"
        );
    }
}

/// Says so where the device computes parts of a model without kernels of its own.
pub fn warn_of_kernels(model: &ModelConfig, device: &Device) {
    for part in without_kernels(model, device) {
        tracing::warn!("{part}; computed by ordinary tensor operations, which are slower and need more memory");
    }
}
