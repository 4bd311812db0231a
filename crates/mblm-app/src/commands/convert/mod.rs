//! `mblm convert`: between the Python package's checkpoints and model folders.

pub(crate) mod args;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use clap::{ArgMatches, Args};
use mblm::checkpoint;
use mblm::config::Architecture;
use mblm::model::Model;

use self::args::ConvertArgs;
use crate::command::{Command, Context, parse};
use crate::usage::Usage;
use crate::{config, output};

/// `mblm convert`.
pub(crate) struct Convert;

impl Command for Convert {
    fn name(&self) -> &'static str {
        "convert"
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
                "{} does not say what its architecture is; give the YAML of the run that wrote it with --config",
                args.from.display()
            ))
            .into());
        }
    };
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
    Ok(ExitCode::SUCCESS)
}

/// Whether the target is a `.pth` file rather than a model folder; other names of weights files are mistakes.
fn is_pth(to: &Path) -> Result<bool> {
    match to.extension().and_then(|extension| extension.to_str()) {
        Some("pth") => Ok(true),
        Some(extension @ ("pt" | "bin" | "safetensors" | "json" | "yaml" | "yml")) => Err(Usage(format!(
            "{}: expected a name ending in .pth, or a model folder to write, found the name of a .{extension} file",
            to.display()
        ))
        .into()),
        _ => Ok(false),
    }
}

fn load(architecture: &Architecture, path: &Path, context: &Context) -> Result<Model> {
    let weights = checkpoint::Weights::open(path)?;
    Ok(Model::new(architecture, context.blocks(), &weights, &Device::Cpu)?)
}
