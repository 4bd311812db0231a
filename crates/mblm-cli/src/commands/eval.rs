//! `mblm eval`: bits per byte of files.

use std::process::ExitCode;

use anyhow::Result;
use mblm::eval::{EvalOptions, Score, score_file};
use mblm::model::{BlockRegistry, Model};
use serde_json::json;

use crate::args::{Cli, EvalArgs, Usage};
use crate::{device, output, progress};

pub(crate) fn run(args: &EvalArgs, cli: &Cli) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let model = Model::open(&args.model.model, &BlockRegistry::default(), &device)?;
    let model = model.decoder("mblm eval")?;
    let options = EvalOptions {
        context: args.context.unwrap_or_else(|| model.config().context()),
        batch_size: args.batch_size,
    };
    if let Some(longest) = model
        .config()
        .longest_input()
        .filter(|longest| options.context > *longest)
    {
        return Err(Usage(format!(
            "--context {}: the model has fixed positions for {longest} bytes; give at most that",
            options.context
        ))
        .into());
    }
    // a missing file is better known before the others have been scored
    for path in &args.files {
        std::fs::metadata(path).map_err(|error| mblm::Error::file(path, error))?;
    }
    let mut all = Score::default();
    let mut files = Vec::with_capacity(args.files.len());
    if !args.json {
        output::line(&format!("{:>14} {:>14}  file", "bytes", "bits per byte"))?;
    }
    for path in &args.files {
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let bar = progress::byte_bar(size, cli.quiet);
        let score = score_file(model, path, &options, &mut |bytes| bar.set_position(bytes))?;
        bar.finish_and_clear();
        all.add(score);
        if args.json {
            files.push(json!({ "file": path, "bytes": score.bytes, "bits_per_byte": score.bits_per_byte() }));
        } else {
            row(score, &path.display().to_string())?;
        }
    }
    if args.json {
        output::json(json!({
            "context_bytes": options.context, "bytes": all.bytes, "bits_per_byte": all.bits_per_byte(), "files": files,
        }))?;
    } else if args.files.len() > 1 {
        row(all, "all")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(score: Score, name: &str) -> std::io::Result<()> {
    output::line(&format!("{:>14} {:>14.4}  {name}", score.bytes, score.bits_per_byte()))
}
