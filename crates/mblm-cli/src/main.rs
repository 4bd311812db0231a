//! The `mblm` command: trains, runs and evaluates hierarchical language models over raw bytes.
//!
//! Glue only: arguments, progress, files and exit codes; what is computed lives in the library.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: a file that cannot be read, written or understood, data that do not fit the model |
//! | 2 | wrong usage or configuration |
//! | 3 | the loss was not finite |
//! | 130, 143 | ended by SIGINT (Ctrl-C), SIGTERM |

mod args;
mod ceilings;
mod commands;
mod config;
mod device;
mod output;
mod plot;
mod progress;
mod run_folder;
mod signals;
mod surprisal;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

/// Every operation makes a new tensor; this allocator keeps their memory, where the system's gives large blocks back and
/// pays for fresh pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells the allocator to keep memory that was freed. A step frees and takes the same large buffers again; memory that went back to
/// the system in between has to be cleared, page by page, each time. `MIMALLOC_PURGE_DELAY` has the last word.
fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name; -1 is never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number inside the allocator; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

fn main() -> ExitCode {
    keep_freed_memory();
    mblm::checkpoint::atomic::fail_points_from_environment();
    let cli = Cli::parse();
    start_logging(&cli);
    // decoding is many short steps, each of which would wait for a worker
    let result = match &cli.command {
        Command::Train(args) => commands::train::run(args, &cli),
        Command::Plan(args) => mblm::on_workers(|| commands::plan::run(args)),
        Command::Generate(args) => mblm::on_workers(|| commands::generate::run(args, &cli)),
        Command::Score(args) => mblm::on_workers(|| commands::score::run(args, &cli)),
        Command::Eval(args) => commands::eval::run(args, &cli),
        Command::Data(args) => commands::data::run(args, &cli),
        Command::Vqa(args) => commands::vqa::run(args, &cli),
        Command::Needle(args) => mblm::on_workers(|| commands::needle::run(args, &cli)),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Convert(args) => commands::convert::run(args, &cli),
        Command::Plot(args) => commands::plot::run(args, &cli),
        Command::Verify(args) => commands::verify::run(args),
        Command::Doctor(args) => mblm::on_workers(|| commands::doctor::run(args, &cli)),
        Command::Bench(args) => mblm::on_workers(|| commands::bench::run(args, &cli)),
        Command::Completions(args) => commands::completions::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Logs go to stderr: warnings by default, more with `-v`, errors only with `-q`; `RUST_LOG` has the last word.
fn start_logging(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // a log that cannot be written is no reason to end the work
        .log_internal_errors(false)
        .init();
}

/// Says what went wrong and gives the exit code for it.
fn report(error: &anyhow::Error) -> ExitCode {
    // whoever read our output has gone: nothing is wrong, and there is nobody to tell
    let gone = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(gone) {
        return ExitCode::SUCCESS;
    }
    output::note(&format!("error: {error:#}"));
    let full = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(mblm::Error::Tensor(error)) if mblm::device::is_out_of_memory(error))
            || cause.downcast_ref().is_some_and(mblm::device::is_out_of_memory)
    };
    if error.chain().any(full) {
        output::note(
            "the device's memory is used up: lower --batch-size, --context or --num-samples, see what others use with \
             nvidia-smi, or compute with --device cpu",
        );
    }
    match error.downcast_ref::<mblm::Error>() {
        Some(mblm::Error::Config(_)) => ExitCode::from(2),
        Some(mblm::Error::NotFinite { .. }) => ExitCode::from(3),
        _ if error.is::<args::Usage>() => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
