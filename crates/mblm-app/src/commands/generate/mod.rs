//! `mblm generate`: bytes after a prompt, streamed as they come; several samples of one prompt; a conversation.
//!
//! | file | holds |
//! |---|---|
//! | [`args`] | the arguments |
//! | [`rules`] | what they ask of a sample |
//! | [`interactive`] | line after line, each with its answer |

pub(crate) mod args;
mod interactive;
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
use mblm::config::ModelConfig;
use mblm::generate::{Completion, Cursor, End, Generator, Start, StopReason};
use mblm::model::Model;
use serde_json::{Value, json};

use self::args::GenerateArgs;
use self::rules::GenerateRules;
use crate::command::{Command, Context, parse};
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{device, output};

/// `mblm generate`.
pub(crate) struct Generate;

impl Command for Generate {
    fn name(&self) -> &'static str {
        "generate"
    }

    fn arguments(&self, command: clap::Command, context: &Context) -> clap::Command {
        args::arguments(command, context.generate_modes())
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        if let Some(mode) = context.generate_modes().find(|mode| mode.is_asked(matches)) {
            return mode.run(matches, context);
        }
        let args = parse(matches)?;
        // decoding is many short steps, each of which would wait for a worker
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &GenerateArgs, context: &Context) -> Result<ExitCode> {
    let mut rules = GenerateRules::new(args)?;
    check_together(args)?;
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
    rules.params.max_bytes = max_bytes(args.max_bytes, cursor.position() + prompt.len(), model.config())?;
    rules.params.interrupt = Some(signals.stop.clone());
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
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Options that exclude one another by their values.
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
            "--save-state with --num-samples {}: expected one sample, whose end is the state; or save after the prompt alone \
             with -n 0",
            args.num_samples
        ))
        .into());
    }
    Ok(())
}

/// What to generate, and where to write it.
struct Job<'a> {
    args: &'a GenerateArgs,
    generator: &'a Generator,
    rules: GenerateRules,
    prompt: &'a [u8],
}

/// A sample, as far as it has come.
#[derive(Clone, Default)]
struct Sample {
    bytes: Vec<u8>,
    end: Option<End>,
}

impl Job<'_> {
    /// The samples that go on from `cursor`, in `format`.
    fn samples(&self, cursor: Cursor, format: Format, echo: bool) -> Result<Completion<'_>> {
        let mut params = self.rules.params.clone();
        (params.format, params.echo) = (format, echo);
        let start = Start {
            cursor: Some(cursor),
            prompt: ids_from_bytes(self.prompt),
            ..Start::default()
        };
        Ok(Completion::new(self.generator, start, &params, &self.rules.stop)?)
    }

    /// Writes the prompt (unless raw) and the continuation to stdout as it comes.
    fn stream(&self, cursor: Cursor) -> Result<()> {
        let raw = self.args.raw;
        let format = if raw { Format::Raw } else { Format::Utf8 };
        let mut out = io::stdout().lock();
        let mut sample = self.samples(cursor, format, !raw)?;
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

    /// Generates all samples, then writes them.
    fn collect(&self, cursor: Cursor) -> Result<()> {
        let started = Instant::now();
        let mut samples = vec![Sample::default(); self.args.num_samples];
        let mut completion = self.samples(cursor, Format::Raw, false)?;
        for piece in completion.by_ref() {
            let piece = piece?;
            let sample = &mut samples[piece.sample];
            sample.bytes.extend(piece.bytes);
            sample.end = piece.end;
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
                let text = [self.prompt, &sample.bytes].concat();
                output::line(&format!("== sample {number}\n{}", String::from_utf8_lossy(&text)))?;
            }
        }
        self.save(completion)
    }

    /// A sample for `--json`.
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

    /// One sample's fields stand at the top as well.
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
            Some(path) => Ok(completion.into_cursor()?.save(self.generator, path)?),
            None => Ok(()),
        }
    }
}

/// How many bytes to generate after a prompt of `prompt` bytes: what was asked for, else what the context leaves.
///
/// Fails when the model has no positions for so many, and when the context leaves nothing.
fn max_bytes(asked: Option<usize>, prompt: usize, model: &ModelConfig) -> Result<usize> {
    let context = model.context();
    let max_bytes = match asked {
        Some(max_bytes) => max_bytes,
        None if prompt < context => context - prompt,
        None if model.longest_input().is_none() => {
            return Err(Usage(format!(
                "the prompt of {prompt} bytes fills the model's context of {context}; say with --max-bytes how far to go \
                 beyond it, or shorten the prompt"
            ))
            .into());
        }
        None => 1, // too many in any case: the check below says what fits
    };
    match model.longest_input() {
        Some(longest) if prompt.saturating_add(max_bytes) > longest => {
            let advice = match longest.saturating_sub(prompt) {
                0 => "shorten the prompt".to_string(),
                left => format!("lower --max-bytes to {left} or shorten the prompt"),
            };
            Err(Usage(format!(
                "prompt and continuation are {prompt} + {max_bytes} bytes, but the model has fixed positions for {longest}; \
                 {advice}"
            ))
            .into())
        }
        _ => Ok(max_bytes),
    }
}

fn prompt(args: &GenerateArgs) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => bytes.extend_from_slice(text.as_bytes()),
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
