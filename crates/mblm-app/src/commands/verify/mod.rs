//! `mblm verify`: checks that this machine reproduces known numbers.

pub(crate) mod args;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::verify;
use serde_json::json;

use self::args::VerifyArgs;
use crate::command::{Command, Context, Section, parse};
use crate::{device, output};

/// `mblm verify`.
pub(crate) struct Verify;

impl Command for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn section(&self) -> Section {
        Section::Machine
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        VerifyArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &VerifyArgs, context: &Context) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let mut passed = true;
    let mut files = Vec::with_capacity(args.fixtures.len());
    for path in &args.fixtures {
        let comparisons = verify::run(path, context.blocks(), &device)?;
        let file_passed = comparisons.iter().all(verify::Comparison::passes);
        passed &= file_passed;
        if args.json {
            files.push(json!({ "fixture": path, "passed": file_passed, "comparisons": comparisons }));
            continue;
        }
        output::line(&format!("{}", path.display()))?;
        output::line(&format!("  {:<34} {:>10} {:>10}", "compared", "error", "bound"))?;
        for comparison in &comparisons {
            let verdict = if comparison.passes() { "ok" } else { "FAILED" };
            let place = comparison.place.as_deref().unwrap_or_default();
            let row = format!(
                "  {:<34} {:>10.2e} {:>10.0e} {verdict} {place}",
                comparison.what, comparison.error, comparison.bound
            );
            output::line(row.trim_end())?;
        }
    }
    if args.json {
        output::json(json!({ "device": device::name(&device), "passed": passed, "fixtures": files }))?;
    } else {
        let verdict = if passed { "all within bounds" } else { "FAILED" };
        output::line(&format!("{verdict} on {}", device::name(&device)))?;
    }
    if !args.json {
        context.suggest("doctor");
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
