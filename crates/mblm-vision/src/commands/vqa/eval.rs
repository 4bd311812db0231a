//! `mblm vqa eval`: the accuracy of a model's answers by type of question, with each answer as a
//! line of JSON and wrong answers as images.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clevr::{Clevr, Questions};
use crate::vqa::{Answered, Asking, Prior, Share, Tally};
use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::checkpoint::atomic;
use mblm::data::Split;
use mblm::model::Model;
use mblm::train::dataset_args;
use serde_json::{Map, Value, json};

use super::args::VqaEvalArgs;
use super::classifier;
use super::found::Found;
use crate::commands::sheet::{Cell, contact_sheet};
use crate::commands::tasks::CLEVR;
use mblm_app::Usage;
use mblm_app::command::{Command, Context, parse};
use mblm_app::signals::Signals;
use mblm_app::{config, device, output, progress, run_folder};

/// The largest number of wrong answers on a contact sheet.
const CELLS: usize = 24;

/// The accuracies of each kind of answer.
#[derive(Default)]
struct Tallies {
    constrained: Tally,
    free: Tally,
    prior: Option<Tally>,
}

/// `mblm vqa eval`.
pub(crate) struct VqaEval;

impl Command for VqaEval {
    fn name(&self) -> &'static str {
        "eval"
    }

    fn parent(&self) -> Option<&'static str> {
        Some("vqa")
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        VqaEvalArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let args = parse(matches)?;
        mblm::on_workers(|| run(&args, context))
    }
}

fn run(args: &VqaEvalArgs, context: &Context) -> Result<ExitCode> {
    for path in [&args.jsonl, &args.contact_sheet].into_iter().flatten() {
        if path.exists() && !args.force {
            return Err(Usage(format!(
                "{}: is there already; give another name, or --force to replace it",
                path.display()
            ))
            .into());
        }
    }
    let signals = Signals::listen()?;
    let split = Split::from(args.split);
    let config = run_folder::config_of(
        &args.model.model,
        args.config.as_deref(),
        "how questions and images become ids",
    )?;
    let found = match context.run_kind(&config) {
        Some(_) => classifier::answers(args, &config, split, &signals, context)?,
        None => answers(args, &config, split, &signals, context)?,
    };
    let prior = match args.prior {
        true => Some(train_prior(&found.folder, context)?),
        false => None,
    };
    let tallies = count(&found.answered, prior.as_ref());
    if let Some(path) = &args.jsonl {
        write_lines(path, &found.answered)?;
    }
    if let Some(path) = &args.contact_sheet {
        write_sheet(path, &found.answered, &found.data, context)?;
    }
    report(args, &found.folder, split, &tallies, found.stopped)?;
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Returns the answers of a byte model.
fn answers(args: &VqaEvalArgs, config: &Path, split: Split, signals: &Signals, context: &Context) -> Result<Found> {
    let device = device::open(&args.compute.device)?;
    let mut experiment = config::read(config, &[], context)?;
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    config::check_trained(&experiment, &model, CLEVR, "mblm vqa eval")?;
    if let Some(data) = &args.data {
        experiment.io.dataset_dir.clone_from(data);
    }
    let Some(data) = Clevr::open(&dataset_args(
        &experiment,
        split,
        progress::opening_bar(context.quiet()),
    ))?
    else {
        return Err(Usage(format!(
            "--split {split}: clevr has no {split} split with answers; use validation"
        ))
        .into());
    };
    let asking = Asking::new(model.decoder("mblm vqa eval")?, &data, args.batch_size, args.limit)?;
    let bar = progress::count_bar(asking.questions() as u64, "questions", context.quiet());
    let mut answered = Vec::with_capacity(asking.questions());
    let mut stopped = false;
    for batch in asking {
        let batch = batch?;
        bar.inc(batch.len() as u64);
        answered.extend(batch);
        if signals.stop.load(Ordering::Relaxed) {
            stopped = true;
            break;
        }
    }
    bar.finish_and_clear();
    answered.sort_by_key(|answered| answered.index);
    Ok(Found {
        answered,
        data: Arc::new(data),
        folder: experiment.io.dataset_dir,
        stopped,
    })
}

/// Returns the most frequent answers of the training split.
fn train_prior(folder: &Path, context: &Context) -> Result<Prior> {
    let file = folder.join("questions/CLEVR_train_questions.json");
    Ok(Prior::new(
        &Questions::read(&file, progress::opening_bar(context.quiet()))?.list,
    ))
}

fn count(answered: &[Answered], prior: Option<&Prior>) -> Tallies {
    let mut tallies = Tallies {
        prior: prior.map(|_| Tally::default()),
        ..Tallies::default()
    };
    for answered in answered {
        let kind = answered.question_type;
        tallies.constrained.count(kind, answered.constrained_right);
        tallies.free.count(kind, answered.free_right);
        if let (Some(tally), Some(prior)) = (&mut tallies.prior, prior) {
            let guess = prior.answer(answered.question_family_index, kind);
            tally.count(kind, guess == Some(&answered.answer));
        }
    }
    tallies
}

fn write_lines(path: &Path, answered: &[Answered]) -> Result<()> {
    Ok(atomic::write(path, |out| {
        for answered in answered {
            serde_json::to_writer(&mut *out, answered)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })?)
}

/// Draws the first wrong answers, if any.
fn write_sheet(path: &Path, answered: &[Answered], data: &Clevr, context: &Context) -> Result<()> {
    let wrong = answered
        .iter()
        .filter(|answered| !answered.constrained_right)
        .take(CELLS);
    let cells: Vec<Cell> = wrong
        .map(|answered| {
            Ok(Cell {
                image: data.original(data.question(answered.index)?)?,
                text: answered.question.clone(),
                right: format!("right: {}", answered.answer),
                wrong: format!("given: {}", answered.constrained),
            })
        })
        .collect::<Result<_>>()?;
    if cells.is_empty() {
        if !context.quiet() {
            output::note(&format!("no answer is wrong, so {} is not written", path.display()));
        }
        return Ok(());
    }
    let image = contact_sheet(&cells)?;
    Ok(atomic::write(path, |out| out.write_all(&image))?)
}

fn report(args: &VqaEvalArgs, folder: &Path, split: Split, tallies: &Tallies, stopped: bool) -> Result<()> {
    let mut columns = vec![("constrained", &tallies.constrained), ("free", &tallies.free)];
    columns.extend(tallies.prior.as_ref().map(|prior| ("prior", prior)));
    let overall: Vec<Share> = columns.iter().map(|(_, tally)| tally.overall).collect();
    let of_types = tallies.constrained.by_type().enumerate().map(|(place, (kind, _))| {
        let shares: Vec<Share> = columns
            .iter()
            .filter_map(|(_, tally)| tally.by_type().nth(place))
            .map(|(_, s)| s)
            .collect();
        (kind, shares)
    });
    if args.json {
        let object = |shares: &[Share]| {
            let mut object = Map::new();
            object.insert("questions".into(), shares.first().map_or(0, |share| share.of).into());
            object.extend(
                columns
                    .iter()
                    .zip(shares)
                    .map(|((name, _), share)| ((*name).into(), json!(share))),
            );
            Value::Object(object)
        };
        let mut by_type = Map::new();
        for (kind, shares) in of_types {
            let name = json!(kind).as_str().unwrap_or(kind.name()).to_string();
            by_type.insert(name, object(&shares));
        }
        output::json(json!({
            "model": args.model.model, "data": folder, "split": split.name(),
            "overall": object(&overall), "by_type": by_type, "stopped": stopped,
        }))?;
        return Ok(());
    }
    let titles: Vec<String> = columns
        .iter()
        .map(|(name, _)| format!("{:>14}", format!("{name} %")))
        .collect();
    output::line(&format!("{:<18}{:>10}{}", "type", "questions", titles.concat()))?;
    let row = |name: &str, shares: &[Share]| {
        let values: Vec<String> = shares
            .iter()
            .map(|share| format!("{:>14.1}", 100.0 * share.accuracy()))
            .collect();
        let questions = shares.first().map_or(0, |share| share.of);
        output::line(&format!("{name:<18}{questions:>10}{}", values.concat()))
    };
    for (kind, shares) in of_types {
        if shares.iter().any(|share| share.of > 0) {
            row(kind.name(), &shares)?;
        }
    }
    row(if stopped { "overall (stopped)" } else { "overall" }, &overall)?;
    Ok(())
}
