//! `mblm data info`: describes a file or folder by the first bytes of its files, without training.

pub(crate) mod args;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::data::splits::named_splits;
use mblm::data::{Split, regular_files};
use mblm_formats::compressed::{HEAD, Packed};
use serde_json::{Map, json};

use self::args::InfoArgs;
use crate::command::{Command, Context, Section, parse};
use crate::output::{self, grouped};

/// The number of bytes of a file that are examined.
const LOOKED_AT: u64 = 64 << 10;

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

/// Files of one kind.
#[derive(Default)]
struct Kind {
    files: u64,
    bytes: u64,
}

fn run(args: &InfoArgs, context: &Context) -> Result<ExitCode> {
    let files = regular_files(&args.path)?;
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for file in &files {
        let kind = kinds.entry(kind_of(file)?).or_default();
        kind.files += 1;
        kind.bytes += file.metadata().map_err(|error| mblm::Error::file(file, error))?.len();
    }
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
    let bytes: u64 = kinds.values().map(|kind| kind.bytes).sum();
    if args.json {
        let kinds: Map<_, _> = kinds
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
    for (name, kind) in &kinds {
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
        for word in words(&kinds) {
            output::note(&word);
        }
        output::note(&format!("try: mblm init --data {}", args.path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Recognizes the kind of a file by its first bytes.
fn kind_of(path: &Path) -> Result<String> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LOOKED_AT).read_to_end(&mut head))
        .map_err(|error| mblm::Error::file(path, error))?;
    if let Some(packed) = Packed::of(&head[..head.len().min(HEAD)]) {
        return Ok(packed.what);
    }
    Ok(match &head[..] {
        [] => "empty",
        [0x89, b'P', b'N', b'G', ..] => "PNG images",
        [0xff, 0xd8, 0xff, ..] => "JPEG images",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "text in UTF-16",
        head if is_json_lines(head) => "JSON Lines",
        head if is_text(head) => "text",
        _ => "other bytes",
    }
    .into())
}

/// Whether these bytes are UTF-8 without NUL. The last character may be incomplete.
fn is_text(head: &[u8]) -> bool {
    let cut = match std::str::from_utf8(head) {
        Ok(_) => head.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return false,
    };
    !head[..cut].contains(&0)
}

/// Whether the first line is a JSON object.
fn is_json_lines(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.len() < head.len() && line.starts_with(b"{") && serde_json::from_slice::<Map<_, _>>(line).is_ok()
}

/// Advice for kinds of files that are rarely meant to be read byte by byte.
fn words(kinds: &BTreeMap<String, Kind>) -> Vec<String> {
    let mut words = Vec::new();
    for name in kinds.keys() {
        words.push(match name.as_str() {
            "PNG images" | "JPEG images" => format!("{name}: data set `pictures` trains on pixels or JPEG bytes; `bytes` reads the files as they are"),
            "JSON Lines" => "JSON Lines: io.dataset_args.text_field=text trains on one field; without it the lines are read as they are".into(),
            "text in UTF-16" => "text in UTF-16: every other byte of Latin text is 0; `iconv -f UTF-16 -t UTF-8 FILE > NEW` converts it".into(),
            "gzip data" | "zstd data" => format!("{name}: read decompressed"),
            "text" | "other bytes" | "empty" => continue,
            _ => format!("{name}: not read; unpack it first, or take its bytes as they are with io.dataset_args.raw=true"),
        });
    }
    words
}
