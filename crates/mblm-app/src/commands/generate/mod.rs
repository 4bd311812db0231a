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
use mblm::bytes::{ByteStream, Format, SpecialIds, ids_from_bytes};
use mblm::checkpoint::atomic;
use mblm::config::ModelConfig;
use mblm::generate::Generator;
use mblm::model::Model;
use serde_json::{Value, json};

use self::args::GenerateArgs;
use crate::command::{Command, Context, parse};
use crate::sampling::{Place, Rules, Stream, append, describe, extend, extend_all, seed_from_clock};
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
    let rules = rules::rules(args)?;
    check_together(args)?;
    let prompt = prompt(args)?;
    let device = device::open(&args.compute.device)?;
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    let model = model.decoder("mblm generate")?;
    rules.check(model.config().num_tokens)?;
    let generator = Generator::new(model)?;
    let place = begin(args, &generator)?;
    let seed = args.seed.unwrap_or_else(seed_from_clock);
    if args.interactive {
        return interactive::run(args, context, &generator, place, rules, seed, &prompt);
    }
    let max_bytes = max_bytes(args.max_bytes, place.state.position() + prompt.len(), model.config())?;
    let signals = Signals::listen()?;
    let job = Job {
        args,
        generator: &generator,
        rules: &rules,
        seed,
        prompt: &prompt,
        max_bytes,
    };
    let mut more = || !signals.stopped();
    match args.num_samples == 1 && !args.json && args.out.is_none() {
        true => job.stream(place, &mut more)?,
        false => job.collect(place, &mut more)?,
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

/// Where generation begins: before the first byte, or where an earlier one ended.
fn begin(args: &GenerateArgs, generator: &Generator<'_>) -> Result<Place> {
    let Some(path) = &args.load_state else {
        return Place::begin(generator);
    };
    let (state, logits) = generator.load_state(path)?;
    if state.streams() != 1 {
        let message = format!("expected the state of one stream, found one of {}", state.streams());
        return Err(mblm::Error::file(path, message).into());
    }
    Ok(Place { state, logits })
}

/// What to generate, and where to write it.
struct Job<'a> {
    args: &'a GenerateArgs,
    generator: &'a Generator<'a>,
    rules: &'a Rules,
    seed: u64,
    prompt: &'a [u8],
    max_bytes: usize,
}

impl Job<'_> {
    /// The sample of this number, from 0.
    fn sample(&self, index: usize) -> Result<Stream<'_>> {
        let number = self.args.first_sample - 1 + index as u64;
        Stream::new(self.rules, self.seed, number, &ids_from_bytes(self.prompt))
    }

    /// Writes the prompt (unless raw) and the continuation to stdout as it comes.
    fn stream(&self, mut place: Place, more: &mut dyn FnMut() -> bool) -> Result<()> {
        let raw = self.args.raw;
        let format = if raw { Format::Raw } else { Format::Utf8 };
        let mut out = ByteStream::new(io::stdout().lock(), format, SpecialIds::Skip);
        let prompt = ids_from_bytes(self.prompt);
        if !raw {
            out.write_ids(&prompt)?;
            out.flush()?;
        }
        place.read(self.generator, &prompt)?;
        let keep = self.args.save_state.is_some();
        let mut sample = self.sample(0)?;
        extend(
            self.generator,
            &mut place,
            &mut sample,
            self.max_bytes,
            keep,
            more,
            &mut |ids| {
                out.write_ids(ids)?;
                out.flush()
            },
        )?;
        let mut out = out.finish()?;
        if !raw && io::stdout().is_terminal() {
            writeln!(out)?;
        }
        out.flush()?;
        self.save(&place)
    }

    /// Generates all samples, then writes them.
    fn collect(&self, mut place: Place, more: &mut dyn FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        place.read(self.generator, &ids_from_bytes(self.prompt))?;
        let mut samples = (0..self.args.num_samples)
            .map(|index| self.sample(index))
            .collect::<Result<Vec<_>>>()?;
        let mut written = vec![Vec::new(); samples.len()]; // bytes of each
        if let [sample] = &mut samples[..] {
            let keep = self.args.save_state.is_some();
            extend(
                self.generator,
                &mut place,
                sample,
                self.max_bytes,
                keep,
                more,
                &mut |ids| {
                    append(&mut written[0], ids);
                    Ok(())
                },
            )?;
        } else {
            extend_all(
                self.generator,
                &place,
                &mut samples,
                self.max_bytes,
                more,
                &mut |index, ids| {
                    append(&mut written[index], ids);
                },
            )?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let first = self.args.first_sample;
        if self.args.json {
            let samples = samples.iter().zip(&written).zip(first..);
            let samples: Vec<Value> = samples
                .map(|((sample, bytes), number)| {
                    let (end, stop) = describe(sample.end(), self.rules);
                    json!({
                        "sample": number, "text": String::from_utf8_lossy(bytes), "bytes": bytes,
                        "generated_bytes": bytes.len(), "end": end, "stop": stop,
                    })
                })
                .collect();
            self.print_json(&samples, seconds)?;
        } else if let Some(folder) = &self.args.out {
            atomic::make_folder(folder)?;
            for (bytes, number) in written.iter().zip(first..) {
                atomic::write(&folder.join(format!("sample_{number}")), |out| out.write_all(bytes))?;
            }
        } else {
            for (bytes, number) in written.iter().zip(first..) {
                let text = [self.prompt, bytes].concat();
                output::line(&format!("== sample {number}\n{}", String::from_utf8_lossy(&text)))?;
            }
        }
        self.save(&place)
    }

    /// One sample's fields stand at the top as well.
    fn print_json(&self, samples: &[Value], seconds: f64) -> Result<()> {
        let mut object = json!({
            "prompt": String::from_utf8_lossy(self.prompt), "seed": self.seed, "seconds": seconds, "samples": samples,
        });
        if let [sample] = samples {
            for field in ["text", "bytes", "generated_bytes"] {
                object[field] = sample[field].clone();
            }
        }
        Ok(output::json(object)?)
    }

    fn save(&self, place: &Place) -> Result<()> {
        match &self.args.save_state {
            Some(path) => Ok(self.generator.save_state(&place.state, &place.logits, path)?),
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
