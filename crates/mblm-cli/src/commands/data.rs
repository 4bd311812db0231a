//! `mblm data`: what can be done with data sets by themselves.

mod check;
mod clevr_synth;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{Cli, DataArgs, DataCommand};

pub(crate) fn run(args: &DataArgs, cli: &Cli) -> Result<ExitCode> {
    match &args.command {
        DataCommand::Check(args) => check::run(args, cli),
        DataCommand::ClevrSynth(args) => clevr_synth::run(args, cli),
    }
}
