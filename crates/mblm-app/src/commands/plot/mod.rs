//! `mblm plot`: figures of loss curves and learning rates.

pub(crate) mod args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::checkpoint::atomic;
use mblm::train::outputs::{LOSS_FILE, LossRow, read_losses};
use serde_json::json;

use self::args::PlotArgs;
use crate::command::{Command, Context, RunKind, Section, parse};
use crate::drawing::{Curves, Figure, Format, Unit};
use crate::output;
use crate::run_folder::CONFIG;
use crate::usage::Usage;

/// The default name of a figure.
const PLOT_FILE: &str = "plot.svg";

/// The unit over which the losses of a byte model are means.
const BYTE: &str = "byte";

/// `mblm plot`.
pub(crate) struct Plot;

impl Command for Plot {
    fn name(&self) -> &'static str {
        "plot"
    }

    fn section(&self) -> Section {
        Section::Models
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        PlotArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &PlotArgs, context: &Context) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| match &args.runs[..] {
        [run] => folder(run).join(PLOT_FILE),
        _ => PathBuf::from(PLOT_FILE),
    });
    let format = Format::of(&output)?;
    if args.output.is_some() && output.exists() && !args.force {
        return Err(Usage(format!(
            "{}: is there already; give another name, or --force to replace it",
            output.display()
        ))
        .into());
    }
    let mut runs = Vec::with_capacity(args.runs.len());
    for (path, name) in args.runs.iter().zip(names(&args.runs)) {
        let rows = rows(path, context)?;
        let curves = Curves::new(name, &rows, args.x, args.unit);
        if curves.losses() < 2 {
            let message = format!(
                "expected at least two losses, found {}; let the run continue for a while",
                curves.losses()
            );
            return Err(mblm::Error::file(loss_file(path), message).into());
        }
        runs.push(curves);
    }
    let of = predicted(&args.runs, context);
    let figure = Figure {
        runs: &runs,
        across: args.x,
        unit: args.unit,
        of: &of,
        logarithmic: args.log,
    };
    let image = format.render(&figure)?;
    atomic::write(&output, |out| out.write_all(&image))?;
    report(args, &output, &figure)?;
    if args.runs.len() == 1 {
        context.suggest("runs");
    } else {
        context.suggest("runs compare RUN RUN");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the rows of a run's `loss.csv` from the first worker.
fn rows(path: &Path, context: &Context) -> Result<Vec<LossRow>> {
    let path = loss_file(path);
    if !path.is_file() {
        let message =
            format!("expected the losses of a run, found no file; give the folder of a run, or its {LOSS_FILE}");
        return Err(mblm::Error::file(&path, message).into());
    }
    let log = read_losses(&path)?;
    let note = |text: &str| {
        if !context.quiet() {
            output::note(&format!("{}: {text}", path.display()));
        }
    };
    if log.torn {
        note("the last line is incomplete and is ignored");
    }
    let (all, mut rows) = (log.rows.len(), log.rows);
    let first = rows.iter().map(|row| row.rank).min();
    rows.retain(|row| Some(row.rank) == first);
    if let Some(first) = first.filter(|_| rows.len() < all) {
        note(&format!("several workers wrote here; worker {first} is drawn"));
    }
    Ok(rows)
}

fn loss_file(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(LOSS_FILE)
    } else {
        path.to_path_buf()
    }
}

/// Returns the run's folder.
fn folder(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.to_path_buf(),
        false => path.parent().unwrap_or(Path::new("")).to_path_buf(),
    }
}

/// Returns the runs' names: the names of their folders, or the paths as given if two names are
/// equal.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| {
        let folder = folder(path);
        let folder = folder.canonicalize().unwrap_or(folder);
        folder.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    let names: Vec<Option<String>> = paths.iter().map(name).collect();
    let chosen = |(name, path): (&Option<String>, &PathBuf)| {
        let same = names.iter().filter(|other| *other == name).count();
        let given = path.display().to_string();
        name.clone().filter(|_| same == 1).unwrap_or(given)
    };
    names.iter().zip(paths).map(chosen).collect()
}

/// Returns the units over which the losses of the runs are means: `byte`, `byte or answer`.
fn predicted(runs: &[PathBuf], context: &Context) -> String {
    let kinds = runs.iter().map(|run| context.run_kind(&folder(run).join(CONFIG)));
    let mut units: Vec<&str> = kinds.map(|kind| kind.map_or(BYTE, RunKind::unit)).collect();
    units.sort_by_key(|unit| *unit != BYTE);
    units.dedup();
    units.join(" or ")
}

fn report(args: &PlotArgs, output: &Path, figure: &Figure) -> Result<()> {
    let points: usize = figure.runs.iter().map(Curves::losses).sum();
    if !args.json {
        let of = match figure.runs.len() {
            1 => "1 run".to_string(),
            count => format!("{count} runs"),
        };
        output::line(&format!("{}: {points} losses of {of}", output.display()))?;
        return Ok(());
    }
    let unit = match args.unit {
        Unit::Bits => format!("bits_per_{}", figure.of.replace(' ', "_")),
        Unit::Nats => "nats".into(),
    };
    let last = |points: &[(f64, f64)]| points.last().map(|(_, loss)| *loss);
    let runs: Vec<_> = args
        .runs
        .iter()
        .zip(figure.runs)
        .map(|(path, run)| {
            json!({
                "name": run.name, "file": loss_file(path), "training_points": run.training.len(),
                "validation_points": run.validation.len(), "last_training_loss": last(&run.training),
                "last_validation_loss": last(&run.validation), "test_loss": run.test.map(|(_, loss)| loss),
            })
        })
        .collect();
    output::json(json!({ "output": output, "points": points, "unit": unit, "runs": runs }))?;
    Ok(())
}
