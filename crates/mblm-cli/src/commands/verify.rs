//! `mblm verify`: does this machine reproduce known numbers?

use std::process::ExitCode;

use anyhow::Result;
use mblm::model::BlockRegistry;
use mblm::verify;
use serde_json::json;

use crate::args::VerifyArgs;
use crate::{device, output};

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let registry = BlockRegistry::default();
    let mut passed = true;
    let mut files = Vec::with_capacity(args.fixtures.len());
    for path in &args.fixtures {
        let comparisons = verify::run(path, &registry, &device)?;
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
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
