//! `mblm score`: the surprisal of each byte of a file or stream, given all bytes before it.
//!
//! The surprisal of a byte is −log₂ of its probability under the model. Bytes are scored as they
//! arrive, and the model's state is carried on. Memory does not grow with the length if the first
//! stage's state does not grow.

pub(crate) mod args;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{ArgMatches, Args};
use indicatif::ProgressBar;
use mblm::eval::{ByPosition, Score, StreamScores};
use mblm::generate::Generator;
use mblm::model::Model;
use serde_json::json;

use self::args::ScoreArgs;
use crate::command::{Command, Context, Section, parse};
use crate::position_table;
use crate::signals::Signals;
use crate::{device, output, progress};

/// The approximate number of bytes read at once; rounded up to whole patches of the first stage,
/// which go through the model together.
const PIECE: usize = 16 << 10;

/// `mblm score`.
pub(crate) struct ScoreCommand;

impl Command for ScoreCommand {
    fn name(&self) -> &'static str {
        "score"
    }

    fn section(&self) -> Section {
        Section::Models
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        ScoreArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &ScoreArgs, context: &Context) -> Result<ExitCode> {
    let device = device::open(&args.compute.device)?;
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    let model = model.decoder("mblm score")?;
    let (mut input, size) = open(&args.file)?;
    let longest = model.config().longest_input();
    if let (Some(longest), Some(size)) = (longest, size) {
        check_length(&args.file, size, longest)?;
    }
    let bar = match args.jsonl && io::stdout().is_terminal() {
        true => ProgressBar::hidden(),
        false => progress::byte_bar(size, context.quiet()),
    };
    let signals = Signals::listen()?;
    let generator = Generator::new(model.clone())?;
    let started = Instant::now();
    let mut scores = StreamScores::begin(&generator)?;
    if args.by_position {
        scores = scores.by_position()?;
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let patch = model.config().seq_lens[1..].iter().product(); // bytes
    let mut piece = vec![0; PIECE.next_multiple_of(patch)];
    while !signals.stopped() {
        let read = match input.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", name(&args.file))),
        };
        if let Some(longest) = longest {
            check_length(&args.file, scores.bytes() + read as u64, longest)?;
        }
        let first = scores.bytes();
        let bits = scores.score(&piece[..read]).map_err(|error| match error {
            mblm::Error::Input(message) => mblm::Error::file(Path::new(&name(&args.file)), message),
            other => other,
        })?;
        if args.jsonl {
            for (offset, (byte, bits)) in (first..).zip(piece.iter().zip(bits)) {
                writeln!(out, "{}", json!({ "offset": offset, "byte": byte, "bits": bits }))?;
            }
            out.flush()?;
        }
        bar.set_position(scores.bytes());
    }
    bar.finish_and_clear();
    drop(out);
    report(&scores, started.elapsed().as_secs_f64(), args, context)?;
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Opens the input, and returns its length if it is known.
fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    mblm::data::warn_if_packed(path);
    let file = File::open(path).map_err(|error| mblm::Error::file(path, error))?;
    let metadata = file.metadata().map_err(|error| mblm::Error::file(path, error))?;
    if metadata.is_dir() {
        return Err(mblm::Error::file(path, "is a folder; expected a file").into());
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

fn name(path: &Path) -> String {
    match path == Path::new("-") {
        true => "stdin".to_string(),
        false => path.display().to_string(),
    }
}

/// Fails if there are more bytes than the model has positions.
fn check_length(path: &Path, bytes: u64, longest: usize) -> Result<()> {
    match bytes <= longest as u64 {
        true => Ok(()),
        false => {
            let message = format!(
                "the model has fixed positions for {longest} bytes, but the input has at least {bytes}; mblm eval \
                 scores files of any length by windows of {longest} bytes"
            );
            Err(mblm::Error::file(Path::new(&name(path)), message).into())
        }
    }
}

/// Prints the totals; to stderr if stdout shows the bytes.
fn report(scores: &StreamScores<'_>, seconds: f64, args: &ScoreArgs, context: &Context) -> Result<()> {
    if scores.bytes() == 0 {
        let message = "is empty: there are no bytes to score";
        return Err(mblm::Error::file(Path::new(&name(&args.file)), message).into());
    }
    if !scores.bits().is_finite() {
        return Err(mblm::Error::NoNumbers {
            place: name(&args.file),
            value: scores.bits(),
        }
        .into());
    }
    let (bytes, bits, bits_per_byte) = (scores.bytes(), scores.bits(), scores.bits_per_byte());
    let rows: Vec<(Range<usize>, Score)> = scores.positions().into_iter().flat_map(ByPosition::rows).collect();
    if args.json {
        let mut object = json!({
            "file": args.file, "bytes": bytes, "bits": bits, "bits_per_byte": bits_per_byte, "seconds": seconds,
            "bytes_per_second": bytes as f64 / seconds.max(1e-9),
        });
        if scores.positions().is_some() {
            object["by_position"] = position_table::json(&rows);
        }
        output::json(object)?;
        return Ok(());
    }
    let summary = format!(
        "{bytes} bytes, {bits_per_byte:.4} bits per byte, {bits:.1} bits in all, {:.0} bytes/s",
        bytes as f64 / seconds.max(1e-9)
    );
    for line in std::iter::once(summary).chain(position_table::lines(&rows)) {
        match (args.jsonl, context.quiet()) {
            (false, _) => output::line(&line)?,
            (true, false) => output::note(&line),
            (true, true) => {}
        }
    }
    Ok(())
}
