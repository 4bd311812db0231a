//! `mblm plot`: pictures of loss curves and learning rates.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use mblm::checkpoint::atomic;
use mblm::config::ClassifierExperiment;
use mblm::train::outputs::{LOSS_FILE, LossRow, read_losses};
use serde_json::json;

use crate::args::{Cli, PlotArgs};
use crate::output;
use crate::plot::{Curves, Format, Picture, Unit};
use crate::run_folder::CONFIG;

/// The name of a picture, where none is given.
const PLOT_FILE: &str = "plot.svg";

pub(crate) fn run(args: &PlotArgs, cli: &Cli) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| match &args.runs[..] {
        [run] => folder(run).join(PLOT_FILE),
        _ => PathBuf::from(PLOT_FILE),
    });
    let format = Format::of(&output)?;
    let mut runs = Vec::with_capacity(args.runs.len());
    for (path, name) in args.runs.iter().zip(names(&args.runs)) {
        let rows = rows(path, cli)?;
        let curves = Curves::new(name, &rows, args.x, args.unit);
        if curves.losses() < 2 {
            let message = format!(
                "expected at least two losses, found {}; let the run go on for a while",
                curves.losses()
            );
            return Err(mblm::Error::file(loss_file(path), message).into());
        }
        runs.push(curves);
    }
    let picture = Picture {
        runs: &runs,
        across: args.x,
        unit: args.unit,
        of: predicted(&args.runs),
        logarithmic: args.log,
    };
    let image = format.render(&picture)?;
    atomic::write(&output, |out| out.write_all(&image))?;
    report(args, &output, &picture)?;
    Ok(ExitCode::SUCCESS)
}

/// The rows of a run's `loss.csv`, of its first worker.
fn rows(path: &Path, cli: &Cli) -> Result<Vec<LossRow>> {
    let path = loss_file(path);
    if !path.is_file() {
        let message =
            format!("expected the losses of a run, found no file; give the folder of a run, or its {LOSS_FILE}");
        return Err(mblm::Error::file(&path, message).into());
    }
    let log = read_losses(&path)?;
    let note = |text: &str| {
        if !cli.quiet {
            output::note(&format!("{}: {text}", path.display()));
        }
    };
    if log.torn {
        note("the last line has no end and is left out");
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

/// The run's folder.
fn folder(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.to_path_buf(),
        false => path.parent().unwrap_or(Path::new("")).to_path_buf(),
    }
}

/// The runs' names: those of their folders, or, where two would be the same, the paths as they were given.
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

/// What the runs predict one by one.
fn predicted(runs: &[PathBuf]) -> &'static str {
    let classifiers = (runs.iter())
        .filter(|run| ClassifierExperiment::is_in(&folder(run).join(CONFIG)))
        .count();
    match classifiers {
        0 => "byte",
        all if all == runs.len() => "answer",
        _ => "byte or answer",
    }
}

fn report(args: &PlotArgs, output: &Path, picture: &Picture) -> Result<()> {
    let points: usize = picture.runs.iter().map(Curves::losses).sum();
    if !args.json {
        let of = match picture.runs.len() {
            1 => "1 run".to_string(),
            count => format!("{count} runs"),
        };
        output::line(&format!("{}: {points} losses of {of}", output.display()))?;
        return Ok(());
    }
    let unit = match args.unit {
        Unit::Bits => format!("bits_per_{}", picture.of.replace(' ', "_")),
        Unit::Nats => "nats".into(),
    };
    let last = |points: &[(f64, f64)]| points.last().map(|(_, loss)| *loss);
    let runs: Vec<_> = args
        .runs
        .iter()
        .zip(picture.runs)
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
