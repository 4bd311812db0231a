//! `mblm bench`: measures the speed of training and generation, and its share of the machine's
//! limit.

pub(crate) mod args;

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
use crate::command::{Command, Context, Section, parse};
use crate::measure::{self, Generation, Training};
use crate::output::{self, grouped};
use crate::room::check_room;
use crate::{config, device};

/// The reason for which a decoder is needed, in an error.
const GENERATION: &str = "measuring generation";
/// The number of streams that generate together.
const STREAMS: usize = 8;

/// `mblm bench`.
pub(crate) struct Bench;

impl Command for Bench {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn section(&self) -> Section {
        Section::Machine
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
    let subject = Subject::new(args, context)?;
    let architecture = &subject.architecture;
    let train = args.what != BenchWhat::Generate;
    let generate = args.what != BenchWhat::Train;
    if train {
        check_room(&subject.workload(args, &device)?, &device)?;
    }
    let mut model = Model::new(architecture, context.blocks(), &Seeded(0), &device)?;
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
    let bar = match context.quiet() {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    let mut report = json!({
        "model": subject.name,
        "parameters": architecture.parameter_counts().total,
        "device": device::name(&device),
        "precision": args.precision.name(),
        "product": match precision.is_bf16(&device) && !device.is_cpu() {
            true => "bfloat16",
            false => "float32",
        },
    });
    if train {
        report["train"] = subject.train(&model, args, &bar)?;
    }
    if generate {
        let model = Arc::into_inner(model).context("the learner has let go of the model")?;
        report["generate"] = subject.generate(model, args, &bar)?;
    }
    bar.finish_and_clear();
    if args.json {
        output::json(report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let parameters = grouped(architecture.parameter_counts().total);
    output::line(&format!(
        "{}: {parameters} parameters, {}, {}",
        subject.name,
        args.precision.name(),
        device::name(&device)
    ))?;
    if train {
        print_training(&report["train"], &report["product"])?;
    }
    if generate {
        print_generation(&report["generate"])?;
    }
    context.suggest("plan CONFIG.yaml");
    Ok(ExitCode::SUCCESS)
}

/// The model to measure.
struct Subject {
    name: String,
    architecture: Architecture,
    /// Bytes of a sample in training; of prompt and continuation together in generation.
    len: usize,
}

impl Subject {
    fn new(args: &BenchArgs, context: &Context) -> Result<Self> {
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
        Ok(Self {
            name,
            architecture,
            len: args.context.unwrap_or(len),
        })
    }

    /// The work of a training step, with the chunks that fit into memory.
    fn workload(&self, args: &BenchArgs, device: &Device) -> Result<Workload<'_>> {
        let work = Workload {
            architecture: &self.architecture,
            batch_size: args.batch_size,
            len: self.len,
            precision: args.precision.into(),
            gpu: !device.is_cpu(),
            chunking: Chunking::default(),
            moments: 2,
        };
        Ok(work.fitted(memory_limit(args.memory, device)?)?)
    }

    fn train(&self, model: &Arc<Model>, args: &BenchArgs, bar: &ProgressBar) -> Result<Value> {
        let device = model.device();
        let work = self.workload(args, device)?;
        let (recipe, batch) = ((work.precision, work.chunking), (args.batch_size, self.len));
        let time = Duration::from_secs_f64(args.seconds);
        let found = measure::training(model, recipe, batch, time, &ticks(bar, "training"))?;
        let mut report = training(&found, &self.architecture, batch, peak_resident());
        report["used_device_bytes"] = used_memory(device)?;
        report["first_stage_portion"] = json!(work.chunking.positions);
        report["estimated_bytes"] = json!(MemoryEstimate::of(&work).total());
        Ok(report)
    }

    fn generate(&self, mut model: Model, args: &BenchArgs, bar: &ProgressBar) -> Result<Value> {
        model.use_in(args.precision.into())?;
        let decoder = model.decoder(GENERATION)?;
        let prompt = (self.len / 2).max(1);
        let count = (self.len - self.len / 2).saturating_sub(1).clamp(1, 512);
        let time = Duration::from_secs_f64(args.seconds);
        let found = measure::generation(decoder, (prompt, count, STREAMS), time, &ticks(bar, "generation"))?;
        let mut report = generation(&found, (prompt, count), peak_resident());
        report["used_device_bytes"] = used_memory(model.device())?;
        Ok(report)
    }
}

/// Shows the measurement's name on the bar, and the seconds so far at every call of the result.
fn ticks(bar: &ProgressBar, what: &'static str) -> impl Fn() {
    let (bar, begun) = (bar.clone(), Instant::now());
    bar.set_message(what);
    bar.tick();
    move || bar.set_message(format!("{what}, {} s", begun.elapsed().as_secs()))
}

fn training(found: &Training, architecture: &Architecture, (rows, len): (usize, usize), peak: Option<u64>) -> Value {
    let bytes = (rows * len) as f64;
    let speeds = found.step.reciprocal(bytes);
    // the backward pass costs twice the forward pass
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

/// Prints one line: a name, the median in units of `unit`, smallest and largest, and `more`.
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

/// Memory in use on the device, by other programs too. Memory that this program has freed stays
/// reserved and is included.
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
