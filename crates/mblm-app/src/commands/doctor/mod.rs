//! `mblm doctor`: shows the machine's hardware, checks that the program computes correctly on it,
//! and measures its speed.

pub(crate) mod args;

mod libraries;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;
use clap::{ArgMatches, Args};
use indicatif::ProgressBar;
use mblm::config::Precision;
use mblm::machine::memory::MachineMemory;
use mblm::machine::speed::{MemoryCopy, Product, Spread};
use mblm::verify::{self, Comparison, Fixture};
use serde_json::{Value, json};

use self::args::DoctorArgs;
use crate::command::{self, Context, Section, parse};
use crate::output;
use crate::usage::Usage;

/// The width of the matrix product.
const WIDTH: usize = 1024;
/// The number of repetitions of product and copy.
const REPETITIONS: usize = 5;

/// Whether this program has kernels for GPUs.
const BUILT_WITH_CUDA: bool = cfg!(feature = "cuda");

/// `mblm doctor`.
pub(crate) struct Doctor;

impl command::Command for Doctor {
    fn name(&self) -> &'static str {
        "doctor"
    }

    fn section(&self) -> Section {
        Section::Machine
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        DoctorArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &DoctorArgs, context: &Context) -> Result<ExitCode> {
    let bar = match context.quiet() || args.json {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let (devices, missing) = devices(args.device.as_deref())?;
    let libraries = libraries::look();
    let mut report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "built_with_cuda": BUILT_WITH_CUDA,
        "processor": processor(),
        "driver": driver(),
        "libraries": libraries,
        "devices": [],
    });
    if let Some(reason) = &missing {
        report["no_cuda_device"] = json!(reason);
    }
    let mut passed = true;
    let mut checked = Vec::new();
    for device in &devices {
        let name = mblm::device::name(device);
        bar.set_message(format!("{name}: self-check"));
        let (found, right) = check(device, &bar, context)?;
        passed &= right;
        checked.push(found);
    }
    bar.finish_and_clear();
    report["devices"] = Value::Array(checked);
    report["passed"] = json!(passed);
    let advice = advice(&report, &libraries);
    report["advice"] = json!(advice);
    if args.json {
        output::json(report)?;
    } else {
        print(&report)?;
    }
    if !args.json && passed {
        context.suggest("bench");
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the devices to check. Without a requested device, also the reason if no CUDA device can
/// be opened.
fn devices(asked: Option<&str>) -> Result<(Vec<Device>, Option<String>)> {
    let usage = |error: candle_core::Error| anyhow::Error::from(Usage(format!("--device: {error}")));
    if let Some(name) = asked {
        return Ok((vec![mblm::device::open(name).map_err(usage)?], None));
    }
    let mut devices = vec![Device::Cpu];
    for ordinal in 0.. {
        match mblm::device::open(&format!("cuda:{ordinal}")) {
            Ok(device) => devices.push(device),
            Err(error) if ordinal == 0 => return Ok((devices, Some(error.to_string()))),
            Err(_) => break,
        }
    }
    Ok((devices, None))
}

fn processor() -> Value {
    let memory = MachineMemory::now();
    json!({
        "name": mblm::machine::processor(),
        "threads": mblm::threads(),
        "instructions": mblm::device::instructions(),
        "bf16_products": mblm::bf16_is_fast(),
        "memory_bytes": memory.total,
        "available_memory_bytes": memory.available,
    })
}

/// The output of `nvidia-smi` about driver and devices, one line per device; null without a driver.
fn driver() -> Value {
    let query = "--query-gpu=index,name,driver_version,compute_cap,memory.total";
    let output = Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            json!(text.lines().map(str::trim).collect::<Vec<_>>())
        }
        _ => Value::Null,
    }
}

/// Runs the fixtures, the product and the copy on one device. Returns the report, and whether all
/// errors were within their bounds.
fn check(device: &Device, bar: &ProgressBar, context: &Context) -> Result<(Value, bool)> {
    let name = mblm::device::name(device);
    let mut failed = Vec::new();
    for (fixture, bytes) in verify::BUNDLED {
        let found = Fixture::from_bytes(bytes, Path::new(fixture))
            .and_then(|fixture| verify::compare(&fixture, context.blocks(), device));
        match found {
            Ok(comparisons) => failed.extend(comparisons.iter().filter(|found| !found.passes()).map(|found| {
                let Comparison { what, error, bound, .. } = found;
                format!("{fixture}: {what}: error {error:.1e}, bound {bound:.0e}")
            })),
            Err(error) => failed.push(format!("{fixture}: {error}")),
        }
    }
    let memory = mblm::device::memory(device)?;
    let mut found = json!({
        "device": name,
        "fixtures": verify::BUNDLED.len(),
        "failed": failed,
        "free_bytes": memory.map(|(free, _)| free),
        "memory_bytes": memory.map(|(_, total)| total),
    });
    let precisions: &[Precision] = match device.is_cpu() {
        true => &[Precision::Float32],
        false => &[Precision::Float32, Precision::Bf16],
    };
    for precision in precisions {
        bar.set_message(format!("{name}: matrix product"));
        let key = match precision {
            Precision::Bf16 => "bf16_product_flop_per_second",
            _ => "float32_product_flop_per_second",
        };
        let speed =
            Product::new(WIDTH, *precision, device).and_then(|product| Spread::measure(REPETITIONS, || product.run()));
        found[key] = measured(speed);
    }
    bar.set_message(format!("{name}: copy"));
    let speed = MemoryCopy::new(device).and_then(|mut copy| Spread::measure(REPETITIONS, || copy.run()));
    found["copy_bytes_per_second"] = measured(speed);
    let right = failed.is_empty();
    Ok((found, right))
}

/// A speed, or the reason why it could not be measured, such as too little free memory.
fn measured(speed: mblm::Result<Spread>) -> Value {
    match speed {
        Ok(speed) => json!(speed),
        Err(error) => json!({ "error": error.to_string().lines().next().unwrap_or_default() }),
    }
}

/// Advice on the findings.
fn advice(report: &Value, libraries: &[libraries::Library]) -> Vec<String> {
    let mut advice = Vec::new();
    let has_driver = report["driver"].is_array();
    if has_driver && !BUILT_WITH_CUDA {
        advice.push(
            "this machine has an NVIDIA GPU, but this program was built without CUDA: build it with --features cuda"
                .into(),
        );
    }
    if BUILT_WITH_CUDA && let Some(reason) = report["no_cuda_device"].as_str() {
        advice.push(reason.to_string());
    }
    if has_driver {
        advice.extend(
            libraries
                .iter()
                .filter(|library| library.found.is_none())
                .map(|library| format!("{} is missing: install {}", library.name, library.package)),
        );
    }
    for device in report["devices"].as_array().into_iter().flatten() {
        if device["failed"].as_array().is_some_and(|failed| !failed.is_empty()) {
            advice.push(format!(
                "{} computes wrong numbers: do not trust it; try another driver, and --device cpu",
                device["device"].as_str().unwrap_or_default()
            ));
        }
    }
    advice
}

fn line(name: &str, text: &str) -> std::io::Result<()> {
    output::line(&format!("  {name:<34} {text}"))
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| "unknown".into(), output::bytes)
}

fn print(report: &Value) -> std::io::Result<()> {
    let kernels = match BUILT_WITH_CUDA {
        true => "with kernels for NVIDIA GPUs of compute capability 8.0 and newer",
        false => "without CUDA",
    };
    output::line(&format!("mblm {}, built {kernels}", env!("CARGO_PKG_VERSION")))?;
    let processor = &report["processor"];
    output::line("processor")?;
    line("name", processor["name"].as_str().unwrap_or("unknown"))?;
    line("threads", &processor["threads"].to_string())?;
    let products = match processor["bf16_products"].as_bool() {
        Some(true) => ", bfloat16 products in hardware",
        _ => "",
    };
    let instructions = processor["instructions"].as_str().unwrap_or_default();
    line("instructions", &format!("{instructions}{products}"))?;
    let (available, memory) = (&processor["available_memory_bytes"], &processor["memory_bytes"]);
    line(
        "memory",
        &format!("{} of {} available", bytes(available), bytes(memory)),
    )?;
    output::line("NVIDIA driver and libraries")?;
    match report["driver"].as_array() {
        Some(devices) => {
            for device in devices {
                line("nvidia-smi", device.as_str().unwrap_or_default())?;
            }
        }
        None => line("nvidia-smi", "no driver found")?,
    }
    for library in report["libraries"].as_array().into_iter().flatten() {
        let name = library["name"].as_str().unwrap_or_default();
        match library["found"].as_str() {
            Some(found) => line(name, &format!("found ({found})"))?,
            None => {
                let package = library["package"].as_str().unwrap_or_default();
                line(name, &format!("missing: comes with {package}"))?;
            }
        }
    }
    for device in report["devices"].as_array().into_iter().flatten() {
        print_device(device)?;
    }
    for advice in report["advice"].as_array().into_iter().flatten() {
        output::line(&format!("to do: {}", advice.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

fn print_device(device: &Value) -> std::io::Result<()> {
    output::line(device["device"].as_str().unwrap_or_default())?;
    if !device["memory_bytes"].is_null() {
        let (free, total) = (&device["free_bytes"], &device["memory_bytes"]);
        line("memory", &format!("{} of {} free", bytes(free), bytes(total)))?;
    }
    match device["failed"].as_array() {
        Some(failed) if !failed.is_empty() => {
            for failure in failed {
                line("self-check FAILED", failure.as_str().unwrap_or_default())?;
            }
        }
        _ => line("self-check", &format!("{} fixtures within bounds", device["fixtures"]))?,
    }
    for (name, key, unit) in [
        (
            "float32 matrix product, GFLOP/s",
            "float32_product_flop_per_second",
            1e9,
        ),
        ("bfloat16 matrix product, GFLOP/s", "bf16_product_flop_per_second", 1e9),
        ("copy, GB/s", "copy_bytes_per_second", 1e9),
    ] {
        let found = &device[key];
        if let Some(median) = found["median"].as_f64() {
            line(name, &format!("{:.1}", median / unit))?;
        } else if let Some(error) = found["error"].as_str() {
            line(name, error)?;
        }
    }
    Ok(())
}
