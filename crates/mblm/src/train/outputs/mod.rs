//! The files that a run writes to its folder: [`RunFiles`], an [`Observer`].
//!
//! | file | holds | on resuming |
//! |---|---|---|
//! | `loss.csv` | losses, learning rate, gradients | truncated to the state's length |
//! | `timemem.csv` | times and memory | truncated |
//! | `events.out.tfevents.SECONDS.mblm` | the same numbers for TensorBoard | truncated; restart TensorBoard |
//! | `train.log` | lines for people | kept as history |
//!
//! Rows are buffered and written at each event. A full disk does not end a run: rows are kept and
//! retried at the next event, and [`flush`](Observer::flush) reports the error. Files keep no
//! partial rows, so a killed and resumed run has the rows of an uninterrupted one, except for
//! times.
//!
//! The worker of rank 0 writes all files. Others write only their `loss_rankN.csv`, if configured.
//!
//! ```
//! use mblm::train::outputs::{RunFiles, RunFilesOptions};
//!
//! let folder = tempfile::tempdir()?;
//! let mut files = RunFiles::create(folder.path(), RunFilesOptions::default())?;
//! files.note("a line for train.log");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod event_file;
mod log;
mod loss_csv;
mod timemem_csv;
mod usage;

#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::Device;
use clock::Moment;
use usage::Usage;

pub use clock::timestamp;
pub use log::TRAIN_LOG;
pub use loss_csv::{LOSS_FILE, LossKind, LossLog, LossRow, read_losses};
pub use timemem_csv::TIMEMEM_FILE;
pub use usage::peak_resident;

use super::observer::{BatchReport, Evaluation, EvaluationKind, Event, FileLengths, Observer};
use super::run_config::RunConfig;
use crate::Result;
use crate::checkpoint::append::Appended;
use crate::unit::Unit;

/// The options of [`RunFiles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunFilesOptions {
    /// The rank of this worker.
    pub rank: usize,
    /// Whether to write losses: whether `io.enabled_loss_log_for_gpus` has its rank.
    pub losses: bool,
    /// The unit of a loss.
    pub unit: Unit,
}

impl Default for RunFilesOptions {
    /// A single worker, with losses, and a model of bytes.
    fn default() -> Self {
        Self {
            rank: 0,
            losses: true,
            unit: Unit::BYTE,
        }
    }
}

impl From<&RunConfig> for RunFilesOptions {
    /// The first worker, as configured.
    fn from(config: &RunConfig) -> Self {
        Self::of_worker(config, 0)
    }
}

impl RunFilesOptions {
    /// The options of one worker.
    pub fn of_worker(config: &RunConfig, worker: usize) -> Self {
        Self {
            rank: worker,
            losses: config.io.enabled_loss_log_for_gpus.contains(&worker),
            unit: config.unit,
        }
    }
}

/// The files of a run.
pub struct RunFiles {
    rank: usize,
    unit: Unit,
    losses: Option<Appended>,
    timemem: Option<Appended>,
    events: Option<Appended>,
    log: Option<Appended>,
    /// Batches of the whole run, once known.
    batches: u64,
    usage: Usage,
    /// The device of the run.
    device: Option<Device>,
    /// Whether the last write failed; reported once, not at every event.
    failing: bool,
}

impl RunFiles {
    /// Creates the files of a new run in the existing `folder`. Rows of an earlier run there are
    /// lost, except for `train.log` and its event file.
    ///
    /// # Errors
    /// Files that cannot be created or written.
    pub fn create(folder: &Path, options: RunFilesOptions) -> Result<Self> {
        let mut second = Moment::now().unix() as u64;
        while folder.join(event_file::name(second)).exists() {
            second += 1;
        }
        let name = event_file::name(second);
        for name in [LOSS_FILE, TIMEMEM_FILE] {
            if options.rank == 0 && folder.join(name).metadata().is_ok_and(|file| file.len() > 0) {
                let path = folder.join(name);
                tracing::warn!(
                    "{}: a new run starts here, the rows of the previous run are removed",
                    path.display()
                );
            }
        }
        Self::open(folder, options, &name, &FileLengths::new())
    }

    /// Opens the files of a run in `folder` that resumes from a state, and truncates them to the
    /// state's `lengths`. A file unknown to the state is started again. A missing or too short file
    /// is not an error: a warning names it.
    ///
    /// # Errors
    /// Files that cannot be opened, truncated or written.
    pub fn resume(folder: &Path, lengths: &FileLengths, options: RunFilesOptions) -> Result<Self> {
        let known = lengths.keys().rfind(|name| name.starts_with(event_file::PREFIX));
        let name = known
            .cloned()
            .or_else(|| event_file::newest(folder))
            .unwrap_or_else(|| event_file::name(Moment::now().unix() as u64));
        Self::open(folder, options, &name, lengths)
    }

    fn open(folder: &Path, options: RunFilesOptions, events: &str, lengths: &FileLengths) -> Result<Self> {
        let main = options.rank == 0;
        let rows = |name: &str, header: &str| {
            let kept = |content: &[u8]| whole_rows(content, header);
            open_rows(&folder.join(name), lengths.get(name).copied(), header.as_bytes(), kept)
        };
        let loss_file = match options.rank {
            0 => LOSS_FILE.to_string(),
            rank => format!("loss_rank{rank}.csv"),
        };
        let version = event_file::version_record(Moment::now().unix());
        let event_file = || {
            let length = lengths.get(events).copied();
            open_rows(&folder.join(events), length, &version, event_file::whole_records)
        };
        let log = || Appended::open(&folder.join(TRAIN_LOG), |content| whole_rows(content, ""));
        let mut files = Self {
            rank: options.rank,
            unit: options.unit,
            losses: options.losses.then(|| rows(&loss_file, loss_csv::HEADER)).transpose()?,
            timemem: main.then(|| rows(TIMEMEM_FILE, timemem_csv::HEADER)).transpose()?,
            events: main.then(event_file).transpose()?,
            log: main.then(log).transpose()?,
            batches: 0,
            usage: Usage::default(),
            device: None,
            failing: false,
        };
        files.all().try_for_each(Appended::write)?;
        Ok(files)
    }

    /// Records the memory of the run's device in `timemem.csv`.
    pub fn on(self, device: &Device) -> Self {
        let device = Some(device.clone());
        Self { device, ..self }
    }

    /// Appends a line with the time to `train.log`, such as the configuration or the device.
    pub fn note(&mut self, text: &str) {
        push(&mut self.log, log::line(&Moment::now(), text));
        self.write();
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Appended> {
        [&mut self.losses, &mut self.timemem, &mut self.events, &mut self.log]
            .into_iter()
            .flatten()
    }

    fn batch(&mut self, moment: &Moment, report: &BatchReport) {
        self.usage = Usage::on(self.device.as_ref(), &self.usage);
        push(&mut self.losses, loss_csv::training_row(self.rank, moment, report));
        push(&mut self.timemem, timemem_csv::training_row(report, &self.usage));
        let Unit { singular, plural, .. } = self.unit;
        let (bits, speed) = (format!("bits_per_{singular}/train"), format!("{plural}_per_second"));
        let mut scalars = vec![
            ("loss/train", report.mean_loss.mean),
            (&bits, report.mean_loss.bits_per_byte()),
            ("learning_rate", report.lr),
            (&speed, report.speed(self.unit)),
        ];
        if let Some(norm) = report.norm {
            scalars.extend([("gradient_norm", norm.before), ("gradient_norm_clipped", norm.after)]);
        }
        let record = event_file::scalars_record(moment.unix(), report.cum_batch, &scalars);
        push(&mut self.events, record);
    }

    fn evaluated(&mut self, moment: &Moment, evaluation: &Evaluation) {
        self.usage = Usage::on(self.device.as_ref(), &self.usage);
        push(
            &mut self.losses,
            loss_csv::evaluation_row(self.rank, moment, evaluation),
        );
        push(&mut self.timemem, timemem_csv::evaluation_row(evaluation, &self.usage));
        let kind = match evaluation.kind {
            EvaluationKind::Validation => "valid",
            EvaluationKind::Test => "test",
        };
        let loss = format!("loss/{kind}");
        let bits = format!("bits_per_{}/{kind}", self.unit.singular);
        let metric = (evaluation.metric).map(|metric| (format!("{}/{kind}", metric.name), metric.value()));
        let mut scalars = vec![
            (&*loss, evaluation.loss.mean),
            (&*bits, evaluation.loss.bits_per_byte()),
        ];
        scalars.extend(metric.iter().map(|(tag, value)| (&**tag, *value)));
        let record = event_file::scalars_record(moment.unix(), evaluation.cum_batch, &scalars);
        push(&mut self.events, record);
    }

    /// Writes buffered rows; on failure they are kept for the next time.
    fn write(&mut self) {
        let mut failed = None;
        for file in self.all() {
            failed = file.write().err().or(failed);
        }
        if let Some(error) = failed.as_ref().filter(|_| !self.failing) {
            tracing::warn!("{error}; the run continues and tries to write them again");
        }
        self.failing = failed.is_some();
    }
}

impl Observer for RunFiles {
    /// Writes the event's rows. Never fails: see [`flush`](Self::flush).
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        let moment = Moment::now();
        match event {
            Event::Start { plan, .. } => self.batches = plan.batches,
            Event::Batch(report) if report.logged && report.worker == self.rank => self.batch(&moment, report),
            Event::Evaluated(evaluation) if self.rank == 0 || evaluation.kind == EvaluationKind::Validation => {
                self.evaluated(&moment, evaluation);
            }
            _ => {}
        }
        if let Some(text) = log::text(event, self.batches, self.unit) {
            push(&mut self.log, log::line(&moment, &text));
        }
        self.write();
        if let Event::End { .. } = event
            && let Err(error) = self.flush()
        {
            tracing::warn!("{error}; the last rows are missing in the run's files");
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<FileLengths> {
        let mut lengths = FileLengths::new();
        for file in [&mut self.losses, &mut self.timemem, &mut self.events]
            .into_iter()
            .flatten()
        {
            let length = file.sync()?;
            if let Some(name) = file.path().file_name() {
                lengths.insert(name.to_string_lossy().into_owned(), length);
            }
        }
        if let Some(log) = &mut self.log {
            log.sync()?;
        }
        self.failing = false;
        Ok(lengths)
    }
}

fn push(file: &mut Option<Appended>, rows: impl AsRef<[u8]>) {
    if let Some(file) = file {
        file.push(rows.as_ref());
    }
}

/// Opens a file of rows with the header `header` and truncates it to its recorded length and there
/// to complete rows, measured by `whole`. `None`: the file has to be started again.
fn open_rows(path: &Path, recorded: Option<u64>, header: &[u8], whole: impl Fn(&[u8]) -> usize) -> Result<Appended> {
    let length = usize::try_from(recorded.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut file = Appended::open(path, |content| whole(&content[..length.min(content.len())]))?;
    if let Some(recorded) = recorded.filter(|recorded| file.length() < *recorded) {
        let found = file.length();
        tracing::warn!(
            "{}: rows are missing: {recorded} bytes expected, {found} found",
            path.display()
        );
    }
    if file.length() == 0 {
        file.push(header);
    }
    Ok(file)
}

/// The length of the complete lines at the beginning of `content`; 0 without `header`.
fn whole_rows(content: &[u8], header: &str) -> usize {
    match content.starts_with(header.as_bytes()) {
        true => content.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1),
        false => 0,
    }
}
