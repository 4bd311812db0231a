//! `mblm runs` lists the runs of a folder; `mblm runs compare` shows the differences between two of
//! them.

pub(crate) mod args;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::checkpoint::RUN_CONFIG;
use serde_json::{Map, Value, json};

use self::args::{CompareArgs, RunsArgs};
use self::summary::RunSummary;
use crate::command::{Command, Context, Section, parse};
use crate::output;
use crate::usage::Usage;

/// The first word of both commands.
const RUNS: &str = "runs";
/// The depth to which a folder is searched for runs: a run named `group/run` has folders above its
/// own.
const MAX_DEPTH: usize = 4;

/// `mblm runs`.
pub(crate) struct Runs;

impl Command for Runs {
    fn name(&self) -> &'static str {
        RUNS
    }

    fn section(&self) -> Section {
        Section::Start
    }

    fn arguments(&self, command: clap::Command, context: &Context) -> clap::Command {
        let compare = Compare.arguments(clap::Command::new(Compare.name()), context);
        RunsArgs::augment_args(command).subcommand(compare)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        list(&parse(matches)?, context)
    }
}

/// `mblm runs compare`.
pub(crate) struct Compare;

impl Command for Compare {
    fn name(&self) -> &'static str {
        "compare"
    }

    fn parent(&self) -> Option<&'static str> {
        Some(RUNS)
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        CompareArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        compare(&parse(matches)?, context)
    }
}

fn list(args: &RunsArgs, context: &Context) -> Result<ExitCode> {
    let mut folders = Vec::new();
    find(&args.folder, 0, &mut folders)?;
    if folders.is_empty() {
        return Err(Usage(format!(
            "{}: expected folders of runs, found none; `mblm train --data FILE --out {0}` makes one",
            args.folder.display()
        ))
        .into());
    }
    let mut runs = Vec::with_capacity(folders.len());
    for folder in folders {
        match RunSummary::read(&folder, context) {
            Ok(run) => runs.push(run),
            Err(error) => tracing::warn!("{}: left out: {error:#}", folder.display()),
        }
    }
    runs.sort_by_key(|run| run.written);
    if args.json {
        output::json(json!({ "runs": runs.iter().map(RunSummary::json).collect::<Vec<_>>() }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = |run: &RunSummary| {
        run.folder
            .strip_prefix(&args.folder)
            .unwrap_or(&run.folder)
            .display()
            .to_string()
    };
    let width = runs
        .iter()
        .map(|run| name(run).chars().count())
        .max()
        .unwrap_or(0)
        .max(3);
    output::line(&format!(
        "{:<width$}  {:<7}  {:>19}  {:>15}  {:>10}  data",
        "run", "status", "bytes seen", "best bits/byte", "age"
    ))?;
    for run in &runs {
        let best = run.best.map_or("-".into(), |bits| match run.unit.as_str() {
            "byte" => format!("{bits:.3}"),
            unit => format!("{bits:.3} a {unit}"),
        });
        output::line(&format!(
            "{:<width$}  {:<7}  {:>19}  {best:>15}  {:>10}  {}",
            name(run),
            run.status,
            progress(run),
            age(run.written),
            run.io.dataset_dir.display()
        ))?;
    }
    if !context.quiet()
        && let Some(run) = runs.last().filter(|run| run.experiment.is_some())
    {
        output::note(&format!(
            "try: mblm generate -m {} --temperature 0.7 --prompt TEXT",
            run.folder.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The bytes trained on so far, and the target: `1.2 MB of 1.6 MB`.
fn progress(run: &RunSummary) -> String {
    let decimal = |bytes: u64| indicatif::DecimalBytes(bytes).to_string();
    match (run.seen, run.target) {
        (None, _) => "-".into(),
        (Some(seen), Some(target)) if seen < target => format!("{} of {}", decimal(seen), decimal(target)),
        (Some(seen), _) => decimal(seen),
    }
}

/// The time since `time`, in its largest unit.
fn age(time: SystemTime) -> String {
    let elapsed = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO);
    indicatif::HumanDuration(elapsed).to_string()
}

/// Collects the folders of runs in `folder`, or `folder` itself if it is a run.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join(RUN_CONFIG).is_file() {
        found.push(folder.to_path_buf());
        return Ok(());
    }
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && depth == 0 => return Ok(()),
        entries => entries.map_err(|error| mblm::Error::file(folder, error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| mblm::Error::file(folder, error))?.path();
        if depth < MAX_DEPTH && path.is_dir() {
            find(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// A key or loss that differs between two runs.
struct Difference {
    name: String,
    first: Value,
    second: Value,
}

fn compare(args: &CompareArgs, context: &Context) -> Result<ExitCode> {
    let read = |folder: &Path| match folder.join(RUN_CONFIG).is_file() {
        true => RunSummary::read(folder, context),
        false => Err(Usage(format!(
            "{}: expected the folder of a run, with its {RUN_CONFIG}; `mblm runs` lists them",
            folder.display()
        ))
        .into()),
    };
    let (first, second) = (read(&args.first)?, read(&args.second)?);
    let keys = differences(&keys(&first)?, &keys(&second)?);
    let losses = losses(&first, &second);
    if args.json {
        let list = |all: &[Difference]| -> Map<String, Value> {
            let pair = |one: &Difference| (one.name.clone(), json!([one.first, one.second]));
            all.iter().map(pair).collect()
        };
        output::json(json!({ "runs": [first.folder, second.folder], "keys": list(&keys), "losses": list(&losses) }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<&Difference> = keys.iter().chain(&losses).collect();
    let width = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0)
        .max(3);
    let text = |value: &Value| match value {
        Value::Null => "-".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let column = rows
        .iter()
        .map(|row| text(&row.first).chars().count())
        .max()
        .unwrap_or(0);
    let column = column.max(args.first.display().to_string().chars().count());
    output::line(&format!(
        "{:<width$}  {:<column$}  {}",
        "key",
        args.first.display(),
        args.second.display()
    ))?;
    for row in rows {
        output::line(&format!(
            "{:<width$}  {:<column$}  {}",
            row.name,
            text(&row.first),
            text(&row.second)
        ))?;
    }
    if keys.is_empty() && !context.quiet() {
        output::note("the configurations do not differ");
    }
    let runs = [&first.folder, &second.folder].map(|folder| folder.display().to_string());
    context.suggest(&format!("plot {}", runs.join(" ")));
    Ok(ExitCode::SUCCESS)
}

/// Returns the keys of a run's configuration by their paths, without the summary of a finished run.
fn keys(run: &RunSummary) -> Result<Map<String, Value>> {
    let whole = match &run.experiment {
        Some(experiment) => serde_json::to_value(experiment)?,
        None => json!({ "io": run.io }),
    };
    let mut flat = Map::new();
    for map in ["io", "params", "train"] {
        flatten(map, &whole[map], &mut flat);
    }
    Ok(flat)
}

fn flatten(path: &str, value: &Value, flat: &mut Map<String, Value>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, flat)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let numbered = items.iter().enumerate();
            numbered.for_each(|(index, value)| flatten(&format!("{path}.{index}"), value, flat));
        }
        flat_value => {
            flat.insert(path.into(), flat_value.clone());
        }
    }
}

fn differences(first: &Map<String, Value>, second: &Map<String, Value>) -> Vec<Difference> {
    let further = second.keys().filter(|key| !first.contains_key(*key));
    let of = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
    first
        .keys()
        .chain(further)
        .map(|key| Difference {
            name: key.clone(),
            first: of(first, key),
            second: of(second, key),
        })
        .filter(|difference| difference.first != difference.second)
        .collect()
}

fn losses(first: &RunSummary, second: &RunSummary) -> Vec<Difference> {
    let rounded = |bits: Option<f64>| bits.map_or(Value::Null, |bits| json!((bits * 1e4).round() / 1e4));
    let unit = &first.unit;
    let rows = [
        ("bytes seen".to_string(), json!(first.seen), json!(second.seen)),
        (
            format!("best bits per {unit}, held-out data"),
            rounded(first.best),
            rounded(second.best),
        ),
        (
            format!("bits per {unit}, test data"),
            rounded(first.test),
            rounded(second.test),
        ),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, first, second)| Difference { name, first, second });
    rows.collect()
}
