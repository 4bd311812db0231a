//! `mblm data info`: describes a file or folder by the first bytes of its files, without training.

pub(crate) mod args;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::data::splits::named_splits;
use mblm::data::{Split, regular_files};
use serde_json::{Map, json};

use self::args::InfoArgs;
use crate::command::{Command, Context, Section, parse};
use crate::file_kinds::FileKinds;
use crate::output::{self, grouped};

/// `mblm data info`.
pub(crate) struct DataInfo;

impl Command for DataInfo {
    fn name(&self) -> &'static str {
        "info"
    }

    fn parent(&self) -> Option<&'static str> {
        Some("data")
    }

    fn section(&self) -> Section {
        Section::Data
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        InfoArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &InfoArgs, context: &Context) -> Result<ExitCode> {
    let files = regular_files(&args.path)?;
    let kinds = FileKinds::of(&files)?;
    let splits = match args.path.is_dir() {
        true => named_splits(&args.path)?,
        false => None,
    };
    let counted = [Split::Train, Split::Validation, Split::Test].map(|split| (split.to_string(), split));
    let splits: Vec<(String, usize)> = splits
        .iter()
        .flat_map(|splits| {
            counted
                .iter()
                .map(|(name, split)| (name.clone(), splits.of(*split).len()))
        })
        .collect();
    let bytes: u64 = kinds.0.values().map(|kind| kind.bytes).sum();
    if args.json {
        let kinds: Map<_, _> = (kinds.0)
            .iter()
            .map(|(name, kind)| (name.clone(), json!({ "files": kind.files, "bytes": kind.bytes })))
            .collect();
        let splits: Map<_, _> = splits
            .iter()
            .map(|(name, count)| (name.to_string(), json!(count)))
            .collect();
        output::json(json!({
            "path": args.path, "files": files.len(), "bytes": bytes, "kinds": kinds,
            "splits": if splits.is_empty() { json!(null) } else { json!(splits) },
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{}: {} files, {} bytes",
        args.path.display(),
        grouped(files.len() as u64),
        grouped(bytes)
    ))?;
    for (name, kind) in &kinds.0 {
        output::line(&format!(
            "{:>9} files {:>17} bytes  {name}",
            grouped(kind.files),
            grouped(kind.bytes)
        ))?;
    }
    output::line(&match splits.is_empty() {
        true => {
            "no splits by name: the last 5 % of the bytes are held out unless dataset_args.held_out says another share"
                .into()
        }
        false => format!(
            "splits by name: {}",
            splits
                .iter()
                .map(|(name, count)| format!("{count} paths of {name}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    })?;
    if !context.quiet() {
        for word in kinds.advice() {
            output::note(&word);
        }
        output::note(&format!("try: mblm init --data {}", args.path.display()));
    }
    Ok(ExitCode::SUCCESS)
}
