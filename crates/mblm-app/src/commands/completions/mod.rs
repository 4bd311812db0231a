//! `mblm completions`: a completion script for a shell.

pub(crate) mod args;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};

use self::args::CompletionsArgs;
use crate::command::{Command, Context, Section, parse};

/// `mblm completions`.
pub(crate) struct Completions;

impl Command for Completions {
    fn name(&self) -> &'static str {
        "completions"
    }

    fn section(&self) -> Section {
        Section::Machine
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        CompletionsArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args: CompletionsArgs = parse(matches)?;
        let mut program = context.program().clone();
        let mut script = Vec::new(); // in memory first: the generator panics if a write fails
        clap_complete::generate(args.shell, &mut program, "mblm", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
