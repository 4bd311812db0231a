//! `mblm data`: data sets.

mod clevr_synth;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{Cli, DataArgs, DataCommand};

pub(crate) fn run(args: &DataArgs, cli: &Cli) -> Result<ExitCode> {
    match &args.command {
        DataCommand::ClevrSynth(args) => clevr_synth::run(args, cli),
    }
}
