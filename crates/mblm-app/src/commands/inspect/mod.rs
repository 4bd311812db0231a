//! `mblm inspect`: shows the contents of a configuration, model folder or weights file.

pub(crate) mod args;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::checkpoint::{self, Weights};
use mblm::config::Architecture;
use serde_json::{Value, json};

use self::args::InspectArgs;
use crate::architecture;
use crate::command::{Command, Context, Section, parse};
use crate::config;
use crate::output::{self, grouped};

/// `mblm inspect`.
pub(crate) struct Inspect;

impl Command for Inspect {
    fn name(&self) -> &'static str {
        "inspect"
    }

    fn section(&self) -> Section {
        Section::Models
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        InspectArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &InspectArgs, context: &Context) -> Result<ExitCode> {
    let path = &args.path;
    let named_yaml = path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    // weights need a file that allows random access, so stdin and pipes hold a configuration
    let streamed = path.metadata().map_or(path == Path::new("-"), |metadata| {
        !metadata.is_file() && !metadata.is_dir()
    });
    let is_yaml = named_yaml || streamed;
    let (architecture, weights) = if is_yaml {
        (Some(config::read(path, &[], context)?.params.architecture), None)
    } else {
        (checkpoint::architecture_of(path)?, Some(Weights::open(path)?))
    };
    if args.json {
        output::json(json!({
            "path": path,
            "kind": architecture.as_ref().map(Architecture::kind),
            "config": architecture.as_ref().map(Architecture::to_json).transpose()?,
            "stages": architecture.as_ref().map(architecture::stages),
            "parameters": architecture.as_ref().map(|architecture| architecture.parameter_counts().total),
            "tensors": weights.as_ref().map(|weights| tensors(weights, args.tensors)).transpose()?,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    match &architecture {
        Some(architecture) => architecture::print(path, architecture)?,
        None => output::line(&format!("{}: weights without a configuration", path.display()))?,
    }
    if let Some(weights) = &weights {
        print_tensors(weights, args.tensors || architecture.is_none(), args.tensors)?;
    }
    let path = path.display();
    match (&architecture, &weights) {
        (Some(Architecture::Decoder(_)), Some(_)) => context.suggest(&format!("generate -m {path} --prompt TEXT")),
        (Some(_), Some(_)) => context.suggest(&format!("inspect {path} --tensors")),
        (_, None) => context.suggest(&format!("plan {path}")),
        (None, Some(_)) => context.suggest("convert --help"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes each tensor; with `look`, also whether its values are finite.
fn tensors(weights: &Weights, look: bool) -> mblm::Result<Vec<Value>> {
    let describe = |name: &str| {
        let mut tensor = json!({ "name": name, "shape": weights.shape(name), "dtype": dtype(weights, name) });
        if look {
            tensor["finite"] = weights.is_finite(name)?.into();
        }
        Ok(tensor)
    };
    weights.names().map(describe).collect()
}

fn dtype(weights: &Weights, name: &str) -> String {
    weights.dtype(name).map_or_else(String::new, |dtype| dtype.to_string())
}

fn print_tensors(weights: &Weights, list: bool, look: bool) -> Result<()> {
    let elements = |name: &str| weights.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
    let total: usize = weights.names().map(elements).sum();
    output::line(&format!(
        "{} tensors, {} elements",
        weights.names().len(),
        grouped(total as u64)
    ))?;
    if list {
        for name in weights.names() {
            let shape = format!("{:?}", weights.shape(name).unwrap_or_default());
            let note = match look && !weights.is_finite(name)? {
                true => "  (numbers that are not finite)",
                false => "",
            };
            output::line(&format!("  {:<8} {shape:<20} {name}{note}", dtype(weights, name)))?;
        }
    }
    Ok(())
}
