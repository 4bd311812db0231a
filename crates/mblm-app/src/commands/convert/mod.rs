//! `mblm convert`: converts between the Python package's checkpoints and model folders.

pub(crate) mod args;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::{DType, Device};
use clap::{ArgMatches, Args};
use mblm::checkpoint;
use mblm::config::Architecture;
use mblm::model::Model;

use self::args::ConvertArgs;
use crate::command::{Command, Context, Section, parse};
use crate::usage::Usage;
use crate::{config, output};

/// `mblm convert`.
pub(crate) struct Convert;

impl Command for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn section(&self) -> Section {
        Section::Models
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        ConvertArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &ConvertArgs, context: &Context) -> Result<ExitCode> {
    let to_pth = is_pth(&args.to)?;
    if args.to.exists() && !args.force {
        return Err(Usage(format!("{} exists; give --force to overwrite it", args.to.display())).into());
    }
    let model = match &args.config {
        Some(config) => load(
            &config::read(config, &[], context)?.params.architecture,
            &args.from,
            context,
        )?,
        None if !args.from.exists() || checkpoint::architecture_of(&args.from)?.is_some() => {
            Model::open(&args.from, context.blocks(), &Device::Cpu)?
        }
        None => {
            return Err(Usage(format!(
                "{} does not contain the model's architecture; give the configuration of the run that wrote it with \
                 --config",
                args.from.display()
            ))
            .into());
        }
    };
    warn_of_no_numbers(&model)?;
    warn_of_no_block_type(args, context)?;
    if to_pth {
        model.save_torch(&args.to)?;
    } else {
        model.save(&args.to)?;
    }
    if !context.quiet() {
        output::note(&format!(
            "wrote {}: {} parameters in {} tensors",
            args.to.display(),
            output::grouped(model.parameters().elements() as u64),
            model.parameters().len()
        ));
    }
    context.suggest(&format!("inspect {}", args.to.display()));
    Ok(ExitCode::SUCCESS)
}

/// Warns if the configuration of a Python checkpoint has no `block_type`. The Python package then
/// tries its block classes in an order that differs from process to process, so the same file may
/// become a decoder or an encoder, which sees the bytes that it predicts.
fn warn_of_no_block_type(args: &ConvertArgs, context: &Context) -> Result<()> {
    let is_torch = args.from.extension().is_some_and(|ending| ending == "pth");
    if let (true, Some(config)) = (is_torch, &args.config)
        && !context.config_text(config)?.contains("block_type")
    {
        tracing::warn!(
            "{}: no block_type is given; here Transformer keys mean a causal decoder, while the Python package picks a decoder or a \
             bidirectional encoder by chance: compare losses before you trust these weights, and write block_type",
            config.display()
        );
    }
    Ok(())
}

/// Warns about weights that are NaN or infinite.
fn warn_of_no_numbers(model: &Model) -> Result<()> {
    let mut names = Vec::new();
    for parameter in model.parameters().iter() {
        let sum = parameter
            .value()
            .to_dtype(DType::F64)?
            .abs()?
            .sum_all()?
            .to_scalar::<f64>()?;
        if !sum.is_finite() {
            names.push(parameter.name().to_string());
        }
    }
    if let Some(first) = names.first() {
        tracing::warn!(
            "{} of {} tensors hold numbers that are not finite (NaN or infinite), the first is `{first}`: the model \
             cannot predict anything",
            names.len(),
            model.parameters().len()
        );
    }
    Ok(())
}

/// Whether the target is a `.pth` file rather than a model folder; fails for names of other weights
/// files.
fn is_pth(to: &Path) -> Result<bool> {
    match to.extension().and_then(|extension| extension.to_str()) {
        Some("pth") => Ok(true),
        Some(extension) if is_ending(extension) => Err(Usage(format!(
            "{}: expected a name that ends in .pth, or the name of a model folder, found the name of a .{extension} \
             file, which mblm cannot write",
            to.display()
        ))
        .into()),
        _ => Ok(false),
    }
}

/// Whether the text after a name's last dot is a file extension rather than part of a folder's
/// name, such as `v1.5`.
fn is_ending(extension: &str) -> bool {
    let letters = extension.chars().all(|letter| letter.is_ascii_alphanumeric());
    letters && extension.starts_with(|first: char| first.is_ascii_alphabetic()) && (2..=11).contains(&extension.len())
}

fn load(architecture: &Architecture, path: &Path, context: &Context) -> Result<Model> {
    let weights = checkpoint::Weights::open(path)?;
    Ok(Model::new(architecture, context.blocks(), &weights, &Device::Cpu)?)
}
