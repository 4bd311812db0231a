//! Reads configurations, and checks names and features that only the program knows.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use mblm::config::{Experiment, IoConfig, ModelConfig, Precision, Vocabulary};
use mblm::data::{DatasetArgs, Split};
use mblm::model::{Model, without_kernels};

use crate::command::Context;
use crate::usage::Usage;

/// The folders above a configuration or the program that are looked into for its data.
const MAX_FOLDERS_ABOVE: usize = 4;

/// Reads a configuration file, and finds its data beside it or beside the program if they are not
/// in the current folder. A file that cannot be read is a usage error, and so is an invalid
/// configuration.
pub fn read(path: &Path, overrides: &[String], context: &Context) -> Result<Experiment> {
    let mut experiment = read_as_written(path, overrides, context)?;
    find_beside(path, &mut experiment.io.dataset_dir);
    Ok(experiment)
}

/// Reads a configuration file as [`read`] does, but leaves the path of its data alone.
pub fn read_as_written(path: &Path, overrides: &[String], context: &Context) -> Result<Experiment> {
    if let Some(kind) = context.run_kind(path) {
        return Err(Usage(format!(
            "{}: expected the configuration of a byte model, with params; this is a configuration of {}, for {}",
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

/// Expands a leading `~` and environment variables (`$NAME`, `${NAME}`) in the paths.
///
/// # Errors
/// A variable is not set. (Otherwise a folder named after the variable would be created.)
pub fn expand_paths(io: &mut IoConfig) -> Result<()> {
    for path in [&mut io.dataset_dir, &mut io.output_dir] {
        *path = expanded(path)?;
    }
    Ok(())
}

/// Finds data with a relative path that is not in the current folder: beside the configuration,
/// beside the program, or in a folder above either. So the bundled configurations find the bundled
/// text from any folder. Data that is nowhere keeps its path, and opening it fails.
fn find_beside(config: &Path, data: &mut PathBuf) {
    if data.is_absolute() || data.as_os_str() == "-" || data.exists() {
        return;
    }
    let bases = [config.canonicalize().ok(), std::env::current_exe().ok()];
    let found = (bases.iter().flatten())
        .flat_map(|base| base.ancestors().skip(1).take(MAX_FOLDERS_ABOVE))
        .map(|folder| folder.join(&*data))
        .find(|path| path.exists());
    if let Some(found) = found {
        tracing::info!("io.dataset_dir: {} is {}", data.display(), found.display());
        *data = found;
    }
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

/// Turns the error of a configuration file that cannot be read into a usage error.
pub fn usage<T>(read: mblm::Result<T>) -> Result<T> {
    read.map_err(|error| match error {
        mblm::Error::File { .. } => Usage(error.to_string()).into(),
        other => other.into(),
    })
}

/// Checks that the experiment's data set and blocks exist, without opening the data or building a
/// block.
pub fn check_names(experiment: &Experiment, context: &Context) -> Result<()> {
    let name = experiment.io.dataset_id.as_str();
    if !context.tasks().names().any(|known| known == name) {
        // fails on the name before it opens anything
        context.tasks().open(name, &DatasetArgs::new("", Split::Train, 1))?;
    }
    Ok(experiment.params.architecture.clone().resolve(context.blocks())?)
}

/// Fails if the model cannot have been trained with this configuration on the data set `dataset`;
/// `what` needs such a model.
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
            "the configuration's vocabulary, {theirs}, is not the model's, {ours}; give the configuration that the \
             model was trained with"
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

/// Warns if bfloat16 products are requested and are not faster on this processor.
pub fn warn_of_precision(precision: Precision, device: &Device) {
    if device.is_cpu() && precision == Precision::Bf16 && !mblm::bf16_is_fast() {
        tracing::warn!(
            "this processor has no fast bfloat16 products (AVX-512-BF16 of AMD or AMX of Intel): training with bf16 is \
             slower than with --precision float32"
        );
    }
}

/// Warns if the device has no kernels for parts of the model.
pub fn warn_of_kernels(model: &ModelConfig, device: &Device) {
    for part in without_kernels(model, device) {
        tracing::warn!("{part}; computed by ordinary tensor operations, which are slower and need more memory");
    }
}
