//! `mblm generate`: bytes after a prompt, streamed as they come.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use mblm::bytes::{ByteStream, Format, SpecialIds, ids_from_bytes};
use mblm::config::ModelConfig;
use mblm::generate::{Generator, Sampler, Sampling, TokenSet};
use mblm::model::{BlockRegistry, Mblm, Model};
use serde_json::json;

use crate::args::{GenerateArgs, Usage};
use crate::signals::Signals;
use crate::{device, output};

pub(crate) fn run(args: &GenerateArgs) -> Result<ExitCode> {
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        filter_thres: args.filter_thres,
        allowed: TokenSet::bytes(),
        ..Sampling::default()
    };
    sampling.validate().map_err(|error| Usage(error.to_string()))?;
    let prompt = prompt(args)?;
    let device = device::open(&args.device)?;
    let model = Model::open(&args.model.model, &BlockRegistry::default(), &device)?;
    let model = model.decoder("mblm generate")?;
    let max_bytes = max_bytes(args.max_bytes, prompt.len(), model.config())?;
    let seed = args.seed.unwrap_or_else(seed_from_clock);
    let signals = Signals::listen()?;
    let mut sampler = Sampler::new(sampling, seed, 0)?;
    let mut more = || !signals.stop.load(std::sync::atomic::Ordering::Relaxed);
    if args.json {
        let mut bytes = Vec::new();
        let started = Instant::now();
        let generated = continue_prompt(model, &prompt, max_bytes, &mut sampler, &mut more, |id| {
            bytes.extend(u8::try_from(id));
            Ok(())
        })?;
        output::json(json!({
            "prompt": String::from_utf8_lossy(&prompt), "text": String::from_utf8_lossy(&bytes), "bytes": bytes,
            "generated_bytes": generated, "seed": seed, "seconds": started.elapsed().as_secs_f64(),
        }))?;
    } else {
        stream(args, model, &prompt, max_bytes, &mut sampler, &mut more)?;
    }
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Writes the prompt (unless raw) and the continuation to stdout as it comes.
fn stream(
    args: &GenerateArgs,
    model: &Mblm,
    prompt: &[u8],
    max_bytes: usize,
    sampler: &mut Sampler,
    more: &mut dyn FnMut() -> bool,
) -> Result<()> {
    let format = if args.raw { Format::Raw } else { Format::Utf8 };
    let mut out = ByteStream::new(io::stdout().lock(), format, SpecialIds::Skip);
    if !args.raw {
        out.write_ids(&ids_from_bytes(prompt))?;
        out.flush()?;
    }
    continue_prompt(model, prompt, max_bytes, sampler, more, |id| {
        out.write_id(id)?;
        out.flush()
    })?;
    let mut out = out.finish()?;
    if !args.raw && io::stdout().is_terminal() {
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// Generates up to `max_bytes` bytes after the prompt while `more` says so; returns how many.
pub(crate) fn continue_prompt(
    model: &Mblm,
    prompt: &[u8],
    max_bytes: usize,
    sampler: &mut Sampler,
    more: &mut dyn FnMut() -> bool,
    mut write: impl FnMut(u32) -> io::Result<()>,
) -> Result<usize> {
    let generator = Generator::new(model)?;
    let mut state = generator.begin(1);
    let ids = ids_from_bytes(prompt);
    sampler.observe(&ids);
    let mut logits = match ids.is_empty() {
        true => generator.first_logits(1)?,
        false => generator.prefill(&mut state, &[&ids])?,
    };
    for generated in 0..max_bytes {
        if !more() {
            return Ok(generated);
        }
        let id = sampler.next(&logits.to_dtype(candle_core::DType::F32)?.get(0)?.to_vec1::<f32>()?)?;
        write(id)?;
        if generated + 1 < max_bytes {
            logits = generator.step(&mut state, &[id])?;
        }
    }
    Ok(max_bytes)
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

fn seed_from_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos() as u64)
}
