//! `mblm vqa`: questions about pictures.

mod classifier;
mod eval;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{Cli, VqaArgs, VqaCommand};

/// The data set that is asked about.
pub(crate) const DATASET: &str = "clevr";

pub(crate) fn run(args: &VqaArgs, cli: &Cli) -> Result<ExitCode> {
    match &args.command {
        VqaCommand::Eval(args) => mblm::on_workers(|| eval::run(args, cli)),
    }
}
