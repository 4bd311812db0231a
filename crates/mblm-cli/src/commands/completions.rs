//! `mblm completions`: a completion script for a shell.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};

pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut Cli::command(), "mblm", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
