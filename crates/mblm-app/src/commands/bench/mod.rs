//! `mblm bench`: how fast this machine trains and generates, and how much of what it could.

pub(crate) mod args;

mod measure;
mod models;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::{ArgMatches, Args};
use indicatif::ProgressBar;
use mblm::config::{Architecture, Precision};
use mblm::model::{Chunking, Model, Seeded};
use mblm::train::outputs::peak_resident;
use mblm::train::{MemoryEstimate, Workload, memory_limit};
use serde_json::{Value, json};

use self::args::{BenchArgs, BenchWhat};
use self::measure::{Generation, Training};
use crate::command::{Command, Context, parse};
use crate::output::{self, grouped};
use crate::{config, device};

/// What a decoder is needed for.
const GENERATION: &str = "measuring generation";
/// Streams that generate together.
const STREAMS: usize = 8;

/// `mblm bench`.
pub(crate) struct Bench;

impl Command for Bench {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        BenchArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode> {
    let device = device::open(&args.device)?;
    let (name, architecture, len) = match &args.config {
        Some(path) => {
            let params = config::read(path, &[], context)?.params;
            (path.display().to_string(), params.architecture, params.input_seq_len)
        }
        None => {
            let model = models::named(args.model);
            let len = model.context();
            (args.model.name(), Architecture::Decoder(model), len)
        }
    };
    let train = args.what != BenchWhat::Generate;
    let generate = args.what != BenchWhat::Train;
    let mut model = Model::new(&architecture, context.blocks(), &Seeded(0), &device)?;
    let precision = Precision::from(args.precision);
    if train {
        config::warn_of_precision(precision, &device);
    }
    config::warn_of_kernels(architecture.model(), &device);
    model.set_precision(precision)?;
    let model = Arc::new(model);
    if generate {
        model.decoder(GENERATION)?;
    }
    let mut report = json!({
        "model": name,
        "parameters": architecture.parameter_counts().total,
        "device": device::name(&device),
        "precision": args.precision.name(),
    });
    let bar = match context.quiet() {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    let begun = Instant::now();
    let tick = |what: &str| bar.set_message(format!("{what}, {} s", begun.elapsed().as_secs()));
    let time = Duration::from_secs_f64(args.seconds);
    report["product"] = json!(match precision.is_bf16(&device) && !device.is_cpu() {
        true => "bfloat16",
        false => "float32",
    });
    if train {
        bar.set_message("training");
        bar.tick();
        let len = args.context.unwrap_or(len);
        let work = Workload {
            architecture: &architecture,
            batch_size: args.batch_size,
            len,
            precision,
            gpu: !device.is_cpu(),
            chunking: Chunking::default(),
        }
        .fitted(memory_limit(args.memory, &device)?)?;
        let recipe = (precision, work.chunking);
        let found = measure::training(&model, recipe, (args.batch_size, len), time, &|| tick("training"))?;
        let peak = peak_resident();
        report["train"] = training(&found, &architecture, (args.batch_size, len), peak);
        report["train"]["used_device_bytes"] = used_memory(&device)?;
        let estimate = MemoryEstimate::of(&work);
        report["train"]["first_stage_portion"] = json!(work.chunking.positions);
        report["train"]["estimated_bytes"] = json!(estimate.total());
    }
    if generate {
        bar.set_message("generation");
        bar.tick();
        let mut model = Arc::into_inner(model).context("the learner has let go of the model")?;
        model.use_in(precision)?;
        let decoder = model.decoder(GENERATION)?;
        let most = args.context.unwrap_or(len);
        let prompt = (most / 2).max(1);
        let count = (most - most / 2).saturating_sub(1).clamp(1, 512);
        let found = measure::generation(decoder, (prompt, count, STREAMS), time, &|| tick("generation"))?;
        report["generate"] = generation(&found, (prompt, count), peak_resident());
        report["generate"]["used_device_bytes"] = used_memory(&device)?;
    }
    bar.finish_and_clear();
    if args.json {
        output::json(report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let parameters = grouped(architecture.parameter_counts().total);
    output::line(&format!(
        "{name}: {parameters} parameters, {}, {}",
        args.precision.name(),
        device::name(&device)
    ))?;
    if train {
        print_training(&report["train"], &report["product"])?;
    }
    if generate {
        print_generation(&report["generate"])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn training(found: &Training, architecture: &Architecture, (rows, len): (usize, usize), peak: Option<u64>) -> Value {
    let bytes = (rows * len) as f64;
    let speeds = found.step.reciprocal(bytes);
    // forward, and twice that backward
    let flops = architecture
        .multiplications_per_byte()
        .map(|multiplications| 3.0 * 2.0 * multiplications);
    json!({
        "batch_size": rows,
        "context": len,
        "step_seconds": found.step,
        "bytes_per_second": speeds,
        "flop_per_byte": flops,
        "flop_per_second": flops.map(|flops| flops * speeds.median),
        "product_flop_per_second": found.limit,
        "share_of_product": flops.map(|flops| flops * speeds.median / found.limit.median),
        "peak_resident_bytes": peak,
    })
}

fn generation(found: &Generation, (prompt, count): (usize, usize), peak: Option<u64>) -> Value {
    json!({
        "prompt": prompt,
        "generated": count,
        "prefill_bytes_per_second": found.prefill,
        "bytes_per_second": found.one,
        "streams": STREAMS,
        "streams_bytes_per_second": found.several,
        "peak_resident_bytes": peak,
    })
}

/// One line: a name, the median in units of `unit`, smallest and largest, and more.
fn row(name: &str, spread: &Value, unit: f64, more: &str) -> std::io::Result<()> {
    let of = |key: &str| spread[key].as_f64().unwrap_or(f64::NAN) / unit;
    let range = format!("({:.2}–{:.2})", of("smallest"), of("largest"));
    output::line(&format!("  {name:<34} {:>10.2} {range:<22} {more}", of("median")))
}

fn print_memory(found: &Value) -> std::io::Result<()> {
    for (name, key) in [
        ("peak resident memory", "peak_resident_bytes"),
        ("peak memory of the device", "used_device_bytes"),
        ("  as train --dry-run estimates", "estimated_bytes"),
    ] {
        if let Some(bytes) = found[key].as_u64() {
            output::line(&format!("  {name:<34} {:>10}", output::bytes(bytes)))?;
        }
    }
    Ok(())
}

/// Memory of the device that is in use, by others too: what this program has taken it keeps.
fn used_memory(device: &Device) -> Result<Value> {
    Ok(mblm::device::memory(device)?.map_or(Value::Null, |(free, total)| json!(total - free)))
}

fn print_training(found: &Value, product: &Value) -> std::io::Result<()> {
    output::line(&format!(
        "training, batches of {} × {} bytes: median (smallest–largest) of {} steps",
        found["batch_size"], found["context"], found["step_seconds"]["repetitions"]
    ))?;
    row("step, s", &found["step_seconds"], 1.0, "")?;
    row("speed, kB/s", &found["bytes_per_second"], 1e3, "")?;
    row(
        &format!("{} matrix product, GFLOP/s", product.as_str().unwrap_or_default()),
        &found["product_flop_per_second"],
        1e9,
        "the limit",
    )?;
    if let (Some(speed), Some(share)) = (found["flop_per_second"].as_f64(), found["share_of_product"].as_f64()) {
        output::line(&format!(
            "  {:<34} {:>10.2} {:<22} {:.0} % of the limit",
            "products of the step, GFLOP/s",
            speed / 1e9,
            "",
            100.0 * share
        ))?;
    }
    if let Some(positions) = found["first_stage_portion"].as_u64() {
        output::line(&format!(
            "  {:<34} {:>10}",
            "positions of a chunk, stage 1",
            grouped(positions)
        ))?;
    }
    print_memory(found)
}

fn print_generation(found: &Value) -> std::io::Result<()> {
    output::line(&format!(
        "generation, {} bytes after {}: median (smallest–largest) of {} rounds",
        found["generated"], found["prompt"], found["bytes_per_second"]["repetitions"]
    ))?;
    row("prefill, kB/s", &found["prefill_bytes_per_second"], 1e3, "")?;
    row("one stream, bytes/s", &found["bytes_per_second"], 1.0, "")?;
    let of = |key: &str| found[key]["median"].as_f64().unwrap_or(f64::NAN);
    let ratio = of("streams_bytes_per_second") / of("bytes_per_second");
    row(
        &format!("{} streams together, bytes/s", found["streams"]),
        &found["streams_bytes_per_second"],
        1.0,
        &format!("{ratio:.1} times one"),
    )?;
    print_memory(found)
}
