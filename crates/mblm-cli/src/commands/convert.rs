//! `mblm convert`: between the Python package's checkpoints and model folders.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use mblm::checkpoint;
use mblm::config::{Architecture, Experiment};
use mblm::model::{BlockRegistry, Model};

use crate::args::{Cli, ConvertArgs, Usage};

pub(crate) fn run(args: &ConvertArgs, cli: &Cli) -> Result<ExitCode> {
    if args.to.exists() && !args.force {
        return Err(Usage(format!("{} exists; give --force to overwrite it", args.to.display())).into());
    }
    let to_pth = args.to.extension().is_some_and(|extension| extension == "pth");
    let model = match &args.config {
        Some(config) => {
            let architecture = Experiment::from_file(config, &[])?.params.architecture;
            load(&architecture, &args.from)?
        }
        None if args.from.is_dir() => Model::open(&args.from, &BlockRegistry::default(), &Device::Cpu)?,
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
    if !cli.quiet {
        eprintln!(
            "wrote {}: {} parameters in {} tensors",
            args.to.display(),
            crate::output::grouped(model.parameters().elements() as u64),
            model.parameters().len()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn load(architecture: &Architecture, path: &Path) -> Result<Model> {
    let weights = checkpoint::Weights::open(path)?;
    Ok(Model::new(
        architecture,
        &BlockRegistry::default(),
        &weights,
        &Device::Cpu,
    )?)
}
