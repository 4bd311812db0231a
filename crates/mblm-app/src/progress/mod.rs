//! Progress: bars on a terminal, plain lines elsewhere, nothing with `-q`.

mod chunks;
mod slow;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use mblm::data::{OnOpening, Opening};
use mblm::train::{EvaluationKind, Event, Observer, OnChunk};

use self::chunks::Chunking;
pub(crate) use self::slow::SlowWork;
use crate::output::{grouped, note};

/// How often a plain line is printed if stderr is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The batches and the time after which the duration of the run is known.
const TIMED_BATCHES: u64 = 4;
const TIMED: Duration = Duration::from_secs(2);

/// The weight of the newest batch in the displayed average loss; larger for the first batches.
const NEWEST_WEIGHT: f64 = 0.05;

/// Whether stderr is a terminal, which can show a bar.
fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Shows the progress of a training run.
pub struct TrainingProgress {
    quiet: bool,
    bars: MultiProgress,
    bar: ProgressBar,
    /// A bar under the run's bar, for a batch that takes long.
    chunking: Chunking,
    /// A bar under the run's bar, for an evaluation.
    evaluation: Option<ProgressBar>,
    started: Instant,
    last_line: Option<Instant>,
    batches: u64,
    /// Batches that were trained before this process started.
    before: u64,
    bytes: u64,
    /// Exponential average of the training loss in bits per byte.
    smoothed: Option<f64>,
    /// Whether the loss is weighted.
    weighted: bool,
    /// The duration of a step has been printed.
    timed: bool,
    /// Makes a sample after each validation.
    sampler: Option<Sampler>,
}

/// Makes a line of text from the model as it is now; `None` if the model cannot.
pub(crate) type Sampler = Box<dyn Fn() -> Option<String>>;

impl TrainingProgress {
    /// Draws nothing before the run starts, and nothing at all if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bars = MultiProgress::new();
        Self {
            quiet,
            chunking: Chunking::new(&bars, is_terminal()),
            bars,
            bar: ProgressBar::hidden(),
            evaluation: None,
            started: Instant::now(),
            last_line: None,
            batches: 0,
            before: 0,
            bytes: 0,
            smoothed: None,
            weighted: false,
            timed: false,
            sampler: None,
        }
    }

    /// Prints a line of `sampler` after each validation.
    #[must_use]
    pub(crate) fn with_samples(self, sampler: Option<Sampler>) -> Self {
        Self { sampler, ..self }
    }

    fn start(&mut self, batches: u64, done: u64) {
        (self.batches, self.before) = (batches, done);
        self.started = Instant::now();
        if self.quiet || !is_terminal() {
            return;
        }
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(batches).with_style(style).with_position(done);
        self.bar = self.bars.add(bar);
    }

    /// Shows the progress of an evaluation.
    fn evaluating(&mut self, done: usize, of: usize) {
        if self.bar.is_hidden() {
            return;
        }
        let bars = &self.bars;
        let bar = self.evaluation.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("evaluating {wide_bar} {pos}/{len}  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(ProgressBar::new(of as u64).with_style(style))
        });
        bar.set_position(done as u64);
    }

    fn end_evaluation(&mut self) {
        if let Some(bar) = self.evaluation.take() {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }

    /// Loss and speed, short enough to fit into 80 columns beside the bar.
    fn message(&self) -> String {
        let speed = self.bytes as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let bits = self.smoothed.unwrap_or(f64::NAN);
        let nats = bits * std::f64::consts::LN_2;
        let speed = speed / 1e3;
        match self.weighted {
            true => format!("smoothed weighted loss {nats:.3} nats  {speed:.1} kB/s"),
            false => format!("smoothed loss {nats:.3}  {bits:.3} bits/byte  {speed:.1} kB/s"),
        }
    }

    /// The time left after `done` batches, at the speed since this process started.
    fn left(&self, done: u64) -> Duration {
        let each = self.started.elapsed().as_secs_f64() / (done - self.before).max(1) as f64;
        Duration::try_from_secs_f64(each * self.batches.saturating_sub(done) as f64).unwrap_or(Duration::MAX)
    }

    fn batch(&mut self, report: &mblm::train::BatchReport) {
        self.chunking.end();
        self.bytes += (report.bytes * report.workers) as u64;
        let bits = report.mean_loss.bits_per_byte();
        self.weighted |= report.mean_loss.weighted;
        let done = report.cum_batch + 1;
        let weight = (2.0 / ((done - self.before) as f64 + 1.0)).max(NEWEST_WEIGHT);
        self.smoothed = Some(
            self.smoothed
                .map_or(bits, |smoothed| smoothed + weight * (bits - smoothed)),
        );
        self.bar.set_position(done);
        self.say_duration(done);
        let left = self.left(done);
        self.bar
            .set_message(format!("{}  {:#} left", self.message(), indicatif::HumanDuration(left)));
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) || done == self.batches;
        if !self.quiet && self.bar.is_hidden() && due {
            self.last_line = Some(Instant::now());
            note(&format!(
                "batch {}/{}  {}  {} left",
                grouped(done),
                grouped(self.batches),
                self.message(),
                indicatif::HumanDuration(left)
            ));
        }
    }

    /// Prints once, after a few batches, how long a batch and the whole run take.
    fn say_duration(&mut self, done: u64) {
        let (elapsed, here) = (self.started.elapsed(), done - self.before);
        if self.timed || here < TIMED_BATCHES || elapsed < TIMED {
            return;
        }
        self.timed = true;
        let seconds = elapsed.as_secs_f64() / here as f64;
        let all = Duration::try_from_secs_f64(seconds * (self.batches - self.before) as f64).unwrap_or(Duration::MAX);
        self.say(&format!(
            "{seconds:.3} s a batch: {} for {} batches",
            indicatif::HumanDuration(all),
            grouped(self.batches - self.before)
        ));
    }

    /// Prints a sample of the model.
    fn sample(&self) {
        if let Some(sampler) = self.sampler.as_ref().filter(|_| !self.quiet)
            && let Some(text) = sampler()
        {
            let line: String = text.escape_debug().collect();
            self.say(&format!("a sample: {}", line.replace("\\\"", "\"").replace("\\'", "'")));
        }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            self.bars.suspend(|| note(line));
        }
    }

    /// Removes the bars.
    pub fn finish(&mut self) {
        self.end_evaluation();
        self.chunking.end();
        self.bar.finish_and_clear();
    }
}

impl Observer for TrainingProgress {
    fn on_chunk(&self) -> Option<OnChunk> {
        (!self.quiet).then(|| self.chunking.listener())
    }

    fn event(&mut self, event: &Event<'_>) -> mblm::Result<()> {
        match event {
            Event::Start { plan, done } => self.start(plan.batches, *done),
            Event::Warning(message) => self.say(&format!("warning: {message}")),
            Event::Stopping => self.say("stopping: the state is being saved; a second signal ends the program at once"),
            Event::Batch(report) if report.worker == 0 => self.batch(report),
            Event::Evaluating { done, of } => self.evaluating(*done, *of),
            Event::Evaluated(evaluation) => {
                self.end_evaluation();
                let bits = evaluation.loss.bits_per_byte();
                let (what, place) = match evaluation.kind {
                    EvaluationKind::Validation => (
                        "held-out data",
                        format!(" after batch {}", grouped(evaluation.cum_batch + 1)),
                    ),
                    EvaluationKind::Test => ("test data", String::new()),
                };
                let best = if evaluation.best { ", the best so far" } else { "" };
                let unit = evaluation.loss.bits_in_words();
                self.say(&format!("{what}: {bits:.3} {unit} per byte{place}{best}"));
                if evaluation.kind == EvaluationKind::Validation {
                    self.sample();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns a callback for `on_opening` that shows a bar for each file that is decoded while a data
/// set is opened.
pub fn opening_bar(quiet: bool) -> Option<OnOpening> {
    if quiet || !is_terminal() {
        return None;
    }
    let style =
        ProgressStyle::with_template("opening {msg} {wide_bar} {binary_bytes}/{binary_total_bytes}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::hidden()
        .with_style(style)
        .with_finish(ProgressFinish::AndClear);
    Some(Arc::new(move |opening: Opening<'_>| {
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let name = opening.path.file_name().unwrap_or(opening.path.as_os_str());
        bar.set_length(opening.total);
        bar.set_position(opening.done);
        bar.set_message(name.to_string_lossy().into_owned());
        if opening.done >= opening.total {
            bar.finish_and_clear();
        }
    }))
}

/// A bar for items that are made one after another, such as images.
pub fn count_bar(total: u64, what: &'static str, quiet: bool) -> ProgressBar {
    if quiet || !is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}  {per_sec}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what)
}

/// A bar for scored bytes; without an end if their number is unknown.
pub fn byte_bar(total: Option<u64>, quiet: bool) -> ProgressBar {
    if quiet || !is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
