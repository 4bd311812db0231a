//! `mblm generate`: continues a prompt, streamed to stdout; draws several samples of one prompt;
//! holds a conversation.
//!
//! | file | holds |
//! |---|---|
//! | [`args`] | the arguments |
//! | [`rules`] | sampling rules from the options |
//! | [`interactive`] | a conversation: each line gets an answer |
//! | [`length`] | the number of bytes to generate |
//! | [`prompt_bar`] | progress bar of a long prompt |

pub(crate) mod args;
mod interactive;
mod length;
mod prompt_bar;
pub(crate) mod rules;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ArgMatches;
use mblm::bytes::{Format, ids_from_bytes};
use mblm::checkpoint::atomic;
use mblm::generate::{Completion, Cursor, End, Generator, Start, StopReason};
use mblm::model::Model;
use serde_json::{Value, json};

use self::args::{GenerateArgs, WindowArg};
use self::length::Length;
use self::prompt_bar::PromptBar;
use self::rules::GenerateRules;
use crate::command::{Command, Context, Section, parse};
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{device, output};

/// `mblm generate`.
pub(crate) struct Generate;

impl Command for Generate {
    fn name(&self) -> &'static str {
        "generate"
    }

    fn section(&self) -> Section {
        Section::Start
    }

    fn arguments(&self, command: clap::Command, context: &Context) -> clap::Command {
        args::arguments(command, context.generate_modes())
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        if let Some(mode) = context.generate_modes().find(|mode| mode.is_asked(matches)) {
            return mode.run(matches, context);
        }
        let args = parse(matches)?;
        // decoding is many short steps: outside of the workers, each of them would wait for a
        // worker
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &GenerateArgs, context: &Context) -> Result<ExitCode> {
    let mut rules = GenerateRules::new(args)?;
    check_together(args)?;
    check_free(args)?;
    let prompt = prompt(args)?;
    let device = device::open(&args.compute.device)?;
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    let model = model.decoder("mblm generate")?;
    rules.check(model.config().num_tokens)?;
    let generator = Generator::new(model.clone())?;
    let cursor = match &args.load_state {
        Some(path) => Cursor::load(&generator, path)?,
        None => Cursor::begin(&generator)?,
    };
    if args.interactive {
        return interactive::run(args, context, &generator, cursor, rules, &prompt);
    }
    let signals = Signals::listen()?;
    let length = Length {
        asked: args.max_bytes,
        window: args.window,
    };
    rules.params.max_bytes = length.max_bytes(cursor.position() + prompt.len(), model.config())?;
    rules.params.interrupt = Some(signals.stop.clone());
    let bar = PromptBar::new(&generator, cursor.position(), prompt.len(), context.quiet());
    rules.params.on_prompt = Some(bar.on_prompt());
    let job = Job {
        args,
        generator: &generator,
        rules,
        prompt: &prompt,
    };
    match args.num_samples == 1 && !args.json && args.out.is_none() {
        true => job.stream(cursor)?,
        false => job.collect(cursor)?,
    }
    bar.finish(signals.stopped());
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Fails for options whose values exclude each other.
fn check_together(args: &GenerateArgs) -> Result<()> {
    if args.num_samples > 1 && args.raw && args.out.is_none() {
        return Err(Usage(format!(
            "--raw with --num-samples {}: the samples could not be told apart; give --out DIR, or --json",
            args.num_samples
        ))
        .into());
    }
    if args.num_samples > 1 && args.save_state.is_some() {
        return Err(Usage(format!(
            "--save-state with --num-samples {}: expected one sample, after which the state is saved; or save the \
             state after the prompt with -n 0",
            args.num_samples
        ))
        .into());
    }
    Ok(())
}

/// Fails if a file would be overwritten, unless `--force` is given.
fn check_free(args: &GenerateArgs) -> Result<(), Usage> {
    if args.force && args.out.is_none() && args.save_state.is_none() {
        return Err(Usage(
            "--force replaces files of --out and --save-state; expected one of these options as well".into(),
        ));
    }
    let numbers = (args.first_sample..).take(args.num_samples);
    let samples = args.out.iter().flat_map(|folder| {
        let numbers = numbers.clone();
        numbers.map(|number| ("--out", folder.join(format!("sample_{number}"))))
    });
    // --save-state may overwrite the state of --load-state
    let state = args
        .save_state
        .iter()
        .filter(|path| Some(*path) != args.load_state.as_ref());
    let state = state.map(|path| ("--save-state", path.clone()));
    match samples.chain(state).find(|(_, path)| path.exists() && !args.force) {
        Some((option, path)) => Err(Usage(format!(
            "{option}: {} is there already; give another name, or --force to replace it",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// The text to generate, and its destination.
struct Job<'a> {
    args: &'a GenerateArgs,
    generator: &'a Generator,
    rules: GenerateRules,
    prompt: &'a [u8],
}

/// A sample as generated so far.
#[derive(Clone, Default)]
struct Sample {
    bytes: Vec<u8>,
    end: Option<End>,
}

impl<'a> Job<'a> {
    /// Starts the samples that continue from `cursor`, in `format`.
    fn samples(&self, cursor: Cursor, format: Format, echo: bool) -> Result<Completion<'a>> {
        let mut params = self.rules.params.clone();
        (params.format, params.echo) = (format, echo);
        let start = Start {
            cursor: Some(cursor),
            prompt: ids_from_bytes(self.prompt),
            ..Start::default()
        };
        Ok(Completion::new(self.generator, start, &params, &self.rules.stop)?)
    }

    /// Writes the prompt (unless raw) and the continuation to stdout while it is generated.
    fn stream(&self, cursor: Cursor) -> Result<()> {
        let raw = self.args.raw;
        let format = if raw { Format::Raw } else { Format::Utf8 };
        let mut out = io::stdout().lock();
        let mut sample = self.samples(cursor, format, !raw && self.echoes())?;
        for piece in sample.by_ref() {
            out.write_all(&piece?.bytes)?;
            out.flush()?;
        }
        if !raw && io::stdout().is_terminal() {
            writeln!(out)?;
        }
        out.flush()?;
        self.save(sample)
    }

    /// Whether to write the prompt before the continuation: always for a typed prompt, otherwise if
    /// requested.
    fn echoes(&self) -> bool {
        self.args.echo || self.args.prompt_file.is_none()
    }

    /// Generates all samples, then writes them.
    fn collect(&self, cursor: Cursor) -> Result<()> {
        let started = Instant::now();
        let count = self.args.num_samples;
        let mut samples = vec![Sample::default(); count];
        // a sliding window generates one sample at a time
        let at_once = if self.args.window == WindowArg::Slide { 1 } else { count };
        let mut last = None;
        for first in (0..count).step_by(at_once.max(1)) {
            let mut rules = self.rules.clone();
            rules.params.samples = at_once;
            rules.params.first_sample += first as u64;
            let job = Job { rules, ..*self };
            let mut some = job.samples(cursor.clone(), Format::Raw, false)?;
            for piece in some.by_ref() {
                let piece = piece?;
                let sample = &mut samples[first + piece.sample];
                sample.bytes.extend(piece.bytes);
                sample.end = piece.end;
            }
            last = Some(some);
        }
        let seconds = started.elapsed().as_secs_f64();
        let numbered = samples.iter().zip(self.args.first_sample..);
        if self.args.json {
            let samples: Vec<Value> = numbered.map(|(sample, number)| self.describe(sample, number)).collect();
            self.print_json(&samples, seconds)?;
        } else if let Some(folder) = &self.args.out {
            atomic::make_folder(folder)?;
            for (sample, number) in numbered {
                atomic::write(&folder.join(format!("sample_{number}")), |out| {
                    out.write_all(&sample.bytes)
                })?;
            }
        } else {
            for (sample, number) in numbered {
                let prompt = if self.echoes() { self.prompt } else { &[] };
                let text = [prompt, &sample.bytes].concat();
                output::line(&format!("== sample {number}\n{}", String::from_utf8_lossy(&text)))?;
            }
        }
        last.map_or(Ok(()), |completion| self.save(completion))
    }

    /// Describes a sample for `--json`.
    fn describe(&self, sample: &Sample, number: u64) -> Value {
        let (end, stop) = match sample.end {
            Some(End::Interrupted) => ("interrupted", Value::Null),
            Some(End::Stop(StopReason::Id(id))) => ("stop_id", json!(id)),
            Some(End::Stop(StopReason::String(index))) => {
                ("stop", json!(String::from_utf8_lossy(&self.rules.stop.strings[index])))
            }
            _ => ("length", Value::Null),
        };
        json!({
            "sample": number, "text": String::from_utf8_lossy(&sample.bytes), "bytes": sample.bytes,
            "generated_bytes": sample.bytes.len(), "end": end, "stop": stop,
        })
    }

    /// Prints JSON. The fields of a single sample are repeated at the top level.
    fn print_json(&self, samples: &[Value], seconds: f64) -> Result<()> {
        let mut object = json!({
            "prompt": String::from_utf8_lossy(self.prompt), "seed": self.rules.params.seed, "seconds": seconds, "samples": samples,
        });
        if let [sample] = samples {
            for field in ["text", "bytes", "generated_bytes"] {
                object[field] = sample[field].clone();
            }
        }
        Ok(output::json(object)?)
    }

    fn save(&self, completion: Completion<'_>) -> Result<()> {
        match &self.args.save_state {
            Some(path) if !completion.has_read_prompt() => {
                output::note(&format!(
                    "{}: not written, because the prompt was not read completely",
                    path.display()
                ));
                Ok(())
            }
            Some(path) => Ok(completion.into_cursor()?.save(self.generator, path)?),
            None => Ok(()),
        }
    }
}

fn prompt(args: &GenerateArgs) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => bytes.extend_from_slice(text.as_encoded_bytes()),
        (None, Some(path)) if path == Path::new("-") => {
            io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("cannot read the prompt from stdin")?;
        }
        (None, Some(path)) => {
            File::open(path)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .with_context(|| format!("cannot read the prompt from {}", path.display()))?;
        }
        (None, None) => {}
    }
    Ok(bytes)
}
