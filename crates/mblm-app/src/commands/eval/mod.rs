//! `mblm eval`: bits per byte of files or of a split of a data set, and the surprisal of each byte.

pub(crate) mod args;

use std::io::{self, BufWriter, IsTerminal};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use clap::{ArgMatches, Args};
use indicatif::ProgressBar;
use mblm::config::{Experiment, Params, Preset, Vocabulary};
use mblm::data::{Dataset, Split};
use mblm::eval::{Buckets, ByPosition, ByteScore, EvalOptions, Score, SplitScores, Windows};
use mblm::model::Model;
use mblm::train::open_split;
use serde_json::{Value, json};

use self::args::{EvalArgs, SurprisalArg};
use crate::command::{Command, Context, Section, parse};
use crate::patience::Patience;
use crate::position_table;
use crate::signals::Signals;
use crate::surprisal::{self, Surprisal};
use crate::usage::Usage;
use crate::{config, device, output, progress};

/// `mblm eval`.
pub(crate) struct Eval;

impl Command for Eval {
    fn name(&self) -> &'static str {
        "eval"
    }

    fn section(&self) -> Section {
        Section::Start
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        EvalArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

fn run(args: &EvalArgs, context: &Context) -> Result<ExitCode> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if args.surprisal == Some(SurprisalArg::Color) && no_color {
        return Err(Usage("--surprisal color: NO_COLOR is set; unset it, or use --surprisal jsonl".into()).into());
    }
    let device = device::open(&args.compute.device)?;
    let experiment = match &args.config {
        Some(path) => Some(config::read(path, &[], context)?),
        None => None,
    };
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    if args.files.is_empty() {
        let experiment = split_experiment(args, experiment, &model)?;
        let mut evaluation = Evaluation::new(args, context, &model, experiment.params.input_seq_len)?;
        evaluation.split(&model, &experiment, context)?;
        evaluation.finish()
    } else {
        let len = args.context.unwrap_or_else(|| model.architecture().model().context());
        let mut evaluation = Evaluation::new(args, context, &model, len)?;
        evaluation.files(&model)?;
        evaluation.finish()
    }
}

/// Returns the configuration of the data set to open: the given one, changed by the arguments, or a
/// new one for `--data` alone.
fn split_experiment(args: &EvalArgs, given: Option<Experiment>, model: &Model) -> Result<Experiment> {
    let architecture = model.architecture();
    let mut experiment = match (given, &args.data) {
        (Some(experiment), _) => {
            let (ours, theirs) = (
                Vocabulary::of(&architecture),
                Vocabulary::of(&experiment.params.architecture),
            );
            if ours != theirs {
                return Err(Usage(format!(
                    "--config: expected the vocabulary of the model, {ours}, found {theirs}; give the configuration that \
                     the model was trained with (config.yaml beside its folder)"
                ))
                .into());
            }
            experiment
        }
        // the argument group requires one of them
        (None, data) => Experiment {
            params: Params {
                input_seq_len: architecture.model().context(),
                architecture,
            },
            ..Preset::Tiny.experiment(data.as_deref().unwrap_or(Path::new("")), Path::new(""))
        },
    };
    if let Some(data) = &args.data {
        experiment.io.dataset_dir.clone_from(data);
    }
    if let Some(dataset) = &args.dataset {
        experiment.io.dataset_id.clone_from(dataset);
    }
    if let Some(context) = args.context {
        experiment.params.input_seq_len = context;
    }
    Ok(experiment)
}

/// A running evaluation and its results so far.
struct Evaluation<'a> {
    args: &'a EvalArgs,
    quiet: bool,
    signals: Signals,
    /// Ends the program if a chunk of work takes long after a signal.
    _patience: Patience,
    options: EvalOptions,
    by_position: Option<ByPosition>,
    surprisal: Option<Surprisal<BufWriter<io::StdoutLock<'static>>>>,
    all: Score,
    /// Lines of the result that are printed after the surprisal.
    waiting: Vec<String>,
    /// The files or the split, for JSON.
    sources: Vec<Value>,
    stopped: bool,
}

impl<'a> Evaluation<'a> {
    /// Starts an evaluation with windows or samples of `len` bytes.
    fn new(args: &'a EvalArgs, context: &Context, model: &Model, len: usize) -> Result<Self> {
        let options = EvalOptions {
            context: len,
            stride: args.stride.unwrap_or(len),
            batch_size: args.batch_size,
        };
        let wrong = |error: mblm::Error| Usage(error.to_string());
        options.validate().map_err(wrong)?;
        let longest = model.architecture().model().longest_input();
        if let Some(longest) = longest.filter(|longest| len > *longest) {
            return Err(Usage(format!(
                "--context {len}: the model has fixed positions for {longest} bytes; give at most that"
            ))
            .into());
        }
        let by_position = args.by_position.map(|count| {
            let buckets = count.map_or(Buckets::Doubling, Buckets::Equal);
            ByPosition::new(len, buckets).map_err(wrong)
        });
        let out = || BufWriter::new(io::stdout().lock());
        let signals = Signals::listen()?;
        Ok(Self {
            args,
            quiet: context.quiet(),
            _patience: Patience::with(&signals, || {
                "one batch takes longer than a second; with a smaller --batch-size or --context, Ctrl-C ends sooner \
                 and shows the scores so far"
                    .into()
            })?,
            signals,
            options,
            by_position: by_position.transpose()?,
            surprisal: args.surprisal.map(|how| match how {
                SurprisalArg::Jsonl => Surprisal::lines(out()),
                SurprisalArg::Color => Surprisal::text(out()),
            }),
            all: Score::default(),
            waiting: Vec::new(),
            sources: Vec::new(),
            stopped: false,
        })
    }

    fn files(&mut self, model: &Model) -> Result<()> {
        let model = model.decoder("mblm eval of files").context(
            "an encoder needs a data set that masks bytes; try --config with the configuration that it was trained with",
        )?;
        let files = &self.args.files;
        // report a missing file before the other files are scored
        let mut sizes = Vec::with_capacity(files.len());
        for path in files {
            mblm::data::warn_if_packed(path);
            sizes.push(match is_stdin(path) {
                true => None,
                false => Some(
                    std::fs::metadata(path)
                        .map_err(|error| mblm::Error::file(path, error))?
                        .len(),
                ),
            });
        }
        self.header()?;
        for (path, size) in files.iter().zip(sizes) {
            let bar = self.bar(|quiet| progress::byte_bar(size, quiet));
            let name = path.display().to_string();
            let score = match is_stdin(path) {
                true => {
                    let windows = Windows::new(model, io::stdin().lock(), self.options)?;
                    self.source("file", &name, windows, &bar)?
                }
                false => self.source("file", &name, Windows::open(model, path, self.options)?, &bar)?,
            };
            if score.bytes == 0 && !self.stopped {
                return Err(mblm::Error::file(path, "is empty: there are no bytes to score").into());
            }
            self.sources.push(json!({
                "file": path, "bytes": score.bytes, "bits_per_byte": score.bits_per_byte(),
            }));
            self.row(score, &name)?;
            if self.stopped {
                break;
            }
        }
        if files.len() > 1 {
            self.row(self.all, "all")?;
        }
        Ok(())
    }

    /// Prints a note if training measures only a part of the split, since its loss may then differ.
    fn compare_with_training(&self, experiment: &Experiment, split: Split, samples: usize) {
        let train = &experiment.train;
        let measured = train.max_eval_steps.map(|steps| steps.saturating_mul(train.batch_size));
        let Some(measured) = measured.filter(|measured| *measured < samples && !self.quiet) else {
            return;
        };
        let how = match train.shuffle_eval {
            true => "in random order, so its result differs".to_string(),
            false => format!("the first ones; --max-samples {measured} gives the same result"),
        };
        output::note(&format!(
            "training measures {measured} of the {samples} samples of the {split} split (train.max_eval_steps), {how}"
        ));
    }

    fn split(&mut self, model: &Model, experiment: &Experiment, context: &Context) -> Result<()> {
        let split = self.args.split.map_or(Split::Validation, Split::from);
        let dataset = open_for(model, experiment, split, context)?;
        let scores = SplitScores::new(model, dataset, self.args.batch_size, self.args.max_samples)?;
        let samples = scores.samples();
        let (id, data) = (&experiment.io.dataset_id, &experiment.io.dataset_dir);
        self.compare_with_training(experiment, split, samples);
        self.header()?;
        let bar =
            self.bar(|quiet| progress::byte_bar(Some(samples.saturating_mul(self.options.context) as u64), quiet));
        let masked = matches!(model, Model::Encoder(_));
        let score = self.source("split", split.name(), scores, &bar)?;
        self.sources.push(json!({
            "dataset": id, "data": data, "split": split.name(), "samples": samples, "masked": masked,
            "bytes": score.bytes, "bits_per_byte": score.bits_per_byte(),
        }));
        let what = if masked { ", masked bytes" } else { "" };
        let name = format!("{split} split of {} ({id}, {samples} samples{what})", data.display());
        self.row(score, &name)
    }

    /// Scores a file or split until its end or a signal.
    fn source(
        &mut self,
        kind: &str,
        name: &str,
        groups: impl Iterator<Item = mblm::Result<Vec<ByteScore>>>,
        bar: &ProgressBar,
    ) -> Result<Score> {
        let mut score = Score::default();
        if let Some(surprisal) = &mut self.surprisal {
            surprisal.begin(kind, name, self.args.files.len() > 1)?;
        }
        for group in groups {
            let group = group?;
            for byte in &group {
                score.count(byte);
                if let Some(by_position) = &mut self.by_position {
                    by_position.count(byte);
                }
            }
            if let Some(surprisal) = &mut self.surprisal {
                surprisal.write(&group)?;
            }
            bar.inc(group.len() as u64);
            if self.signals.stop.load(Ordering::Relaxed) {
                self.stopped = true;
                break;
            }
        }
        bar.finish_and_clear();
        if let Some(surprisal) = &mut self.surprisal {
            surprisal.end()?;
        }
        self.all.add(score);
        Ok(score)
    }

    /// Returns a bar, hidden if it would be drawn into the text on the terminal.
    fn bar(&self, bar: impl FnOnce(bool) -> ProgressBar) -> ProgressBar {
        bar(self.quiet || self.surprisal.is_some() && io::stdout().is_terminal())
    }

    fn header(&mut self) -> io::Result<()> {
        self.say(format!("{:>14} {:>14}  file", "bytes", "bits per byte"))
    }

    fn row(&mut self, score: Score, name: &str) -> Result<()> {
        score.check(name)?;
        let stopped = if self.stopped { " (stopped)" } else { "" };
        let bits = score.bits_per_byte();
        Ok(self.say(format!("{:>14} {bits:>14.4}  {name}{stopped}", score.bytes))?)
    }

    /// Prints a line of the result, unless the result is JSON.
    fn say(&mut self, line: String) -> io::Result<()> {
        match (&self.surprisal, self.args.json) {
            (_, true) => Ok(()),
            (Some(_), _) => {
                self.waiting.push(line);
                Ok(())
            }
            (None, _) => output::line(&line),
        }
    }

    /// Prints the rest of the result.
    fn finish(mut self) -> Result<ExitCode> {
        let rows: Vec<(Range<usize>, Score)> = self.by_position.iter().flat_map(ByPosition::rows).collect();
        if self.args.json {
            output::json(self.json(&rows))?;
        } else {
            for line in position_table::lines(&rows) {
                self.say(line)?;
            }
        }
        if self.surprisal.is_some() && !self.quiet {
            if self.args.surprisal == Some(SurprisalArg::Color) {
                output::note(&surprisal::legend());
            }
            self.waiting.iter().for_each(|line| output::note(line));
        }
        if !self.args.json && self.surprisal.is_none() && !self.quiet {
            let model = self.args.model.model.display();
            output::note(&match self.args.files.first().filter(|file| !is_stdin(file)) {
                Some(file) => format!("try: mblm score -m {model} {}", file.display()),
                None => format!("try: mblm generate -m {model} --prompt TEXT"),
            });
        }
        Ok(self.signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
    }

    fn json(&self, rows: &[(Range<usize>, Score)]) -> Value {
        let mut object = json!({
            "context_bytes": self.options.context, "stride_bytes": self.options.stride, "bytes": self.all.bytes,
            "bits_per_byte": self.all.bits_per_byte(), "stopped": self.stopped,
        });
        match self.args.files.is_empty() {
            true => object["split"] = self.sources.first().cloned().unwrap_or_default(),
            false => object["files"] = Value::from(self.sources.clone()),
        }
        if self.by_position.is_some() {
            object["by_position"] = position_table::json(rows);
        }
        object
    }
}

/// Opens a split that the model can be scored on.
fn open_for(model: &Model, experiment: &Experiment, split: Split, context: &Context) -> Result<Arc<dyn Dataset>> {
    let (id, data) = (&experiment.io.dataset_id, &experiment.io.dataset_dir);
    let Some(dataset) = open_split(
        experiment,
        context.tasks(),
        split,
        progress::opening_bar(context.quiet()),
    )?
    else {
        return Err(Usage(format!(
            "--split {split}: expected a split of {} (data set {id}), which has none of that name; try another --split, or \
             give its files as arguments",
            data.display()
        ))
        .into());
    };
    // the first sample shows whether the data fit the model
    let masked = dataset.len(0) > 0 && dataset.sample(0, 0)?.labels.is_some();
    match (model, masked) {
        (Model::Encoder(_), false) => Err(Usage(format!(
            "an encoder restores masked bytes, but data set {id} does not mask bytes; use --dataset pg19masked"
        ))
        .into()),
        _ => Ok(dataset),
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}
