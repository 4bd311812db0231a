//! `mblm data clevr-synth`: a synthetic CLEVR data set.

mod args;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use crate::clevr_synth::{self, Options, Summary};
use anyhow::{Context as _, Result};
use clap::{ArgMatches, Args};
use mblm::checkpoint::atomic;
use serde_json::json;

use self::args::ClevrSynthArgs;
use mblm_app::Usage;
use mblm_app::command::{Command, Context, parse};
use mblm_app::output::{self, grouped};
use mblm_app::progress;
use mblm_app::signals::Signals;

/// The parts of a CLEVR data set; only a folder of these is ever replaced.
const PARTS: [&str; 3] = ["images", "questions", "scenes"];

/// `mblm data clevr-synth`.
pub(crate) struct ClevrSynth;

impl Command for ClevrSynth {
    fn name(&self) -> &'static str {
        "clevr-synth"
    }

    fn parent(&self) -> Option<&'static str> {
        Some("data")
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        ClevrSynthArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &ClevrSynthArgs, context: &Context) -> Result<ExitCode> {
    let out = target(&args.out, args.force)?;
    let options = Options {
        train_images: args.images,
        val_images: args.val_images.unwrap_or((args.images / 10).max(1)),
        questions_per_image: args.questions_per_image,
        seed: args.seed,
        small: args.small,
        max_objects: args.max_objects,
        max_relations: args.max_relations,
    };
    if let Some(parent) = out.parent() {
        atomic::make_folder(parent)?;
    }
    let signals = Signals::listen().context("cannot listen for signals")?;
    let started = Instant::now();
    let total = (options.train_images + options.val_images) as u64;
    let bar = progress::count_bar(total, "images", context.quiet());
    let made = clevr_synth::write(&out, &options, &mut |done| {
        bar.set_position(done as u64);
        match signals.stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.finish_and_clear();
    match made? {
        Some(summary) => {
            report(args, &summary, started.elapsed().as_secs_f64())?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            if !context.quiet() {
                output::note("stopped: nothing was written; repeat the command to start again");
            }
            Ok(signals.exit_code().map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}

/// Returns the output folder if it is free or may be replaced.
fn target(out: &Path, force: bool) -> Result<PathBuf> {
    let usage = |message: String| Err(Usage(format!("{}: {message}", out.display())).into());
    if !out.exists() {
        return match out.file_name() {
            Some(_) => Ok(out.to_path_buf()),
            None => usage("expected the name of a folder to write".to_string()),
        };
    }
    if !out.is_dir() {
        return usage("expected the name of a folder to write, found a file; give another name".to_string());
    }
    // replaces the folder itself rather than a link to it
    let path = out
        .canonicalize()
        .map_err(|error| mblm::Error::file(out, format!("cannot be read: {error}")))?;
    if std::env::current_dir().is_ok_and(|current| current == path) || path.file_name().is_none() {
        return usage(
            "expected the name of a folder to write, found the current folder; give another name".to_string(),
        );
    }
    let entries = std::fs::read_dir(&path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(|error| mblm::Error::file(out, format!("cannot be listed: {error}")))?;
    let strange = entries
        .iter()
        .map(|entry| entry.file_name())
        .find(|name| !PARTS.iter().any(|part| name == part));
    match (entries.is_empty(), strange) {
        (true, _) => Ok(path),
        (false, None) if force => Ok(path),
        (false, None) => usage("a data set is there already; give another name, or --force to replace it".to_string()),
        (false, Some(name)) => usage(format!(
            "expected a new or empty folder, found {} in it; give another name",
            name.to_string_lossy()
        )),
    }
}

fn report(args: &ClevrSynthArgs, summary: &Summary, seconds: f64) -> Result<()> {
    let images = summary.train_images + summary.val_images;
    if args.json {
        let mut answers = serde_json::Map::new();
        for (answer, count) in summary.answers.values().flatten() {
            let sum = answers.get(answer).and_then(serde_json::Value::as_u64).unwrap_or(0);
            answers.insert(answer.clone(), (sum + *count as u64).into());
        }
        output::json(json!({
            "output": args.out, "seed": args.seed, "small": args.small,
            "images": { "train": summary.train_images, "val": summary.val_images, "bytes": summary.image_bytes },
            "questions": summary.questions, "types": summary.by_type(), "answers": answers,
            "answers_by_type": summary.answers, "seconds": seconds,
        }))?;
        return Ok(());
    }
    output::line(&format!(
        "{}: {} images ({} training, {} validation; {}), {} questions in {seconds:.1} s",
        args.out.display(),
        grouped(images as u64),
        grouped(summary.train_images as u64),
        grouped(summary.val_images as u64),
        output::bytes(summary.image_bytes),
        grouped(summary.questions as u64)
    ))?;
    output::line(&format!(
        "{:18} {:>10} {:>8}  most frequent answer",
        "type", "questions", "share"
    ))?;
    for (kind, answers) in &summary.answers {
        let of: usize = answers.values().sum();
        let most = answers.iter().max_by_key(|(_, count)| **count);
        let most = most.map_or(String::new(), |(answer, count)| {
            format!("{answer}, {:.1} %", 100.0 * *count as f64 / of as f64)
        });
        let name = serde_json::to_value(kind)?;
        output::line(&format!(
            "{:18} {:>10} {:>6.1} %  {most}",
            name.as_str().unwrap_or_default().replace('_', " "),
            grouped(of as u64),
            100.0 * of as f64 / summary.questions as f64
        ))?;
    }
    Ok(())
}
