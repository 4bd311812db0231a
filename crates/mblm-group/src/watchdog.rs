//! A watchdog over the collectives of a process.
//!
//! A rank that stops answering leaves the others inside a collective for ever. [`Watched`] notes
//! the name, the step and the start of each collective. A thread looks at the notes: if a
//! collective waits longer than a limit, if it waits [`GRACE`] after a SIGTERM, or if the engine
//! reports a failure of the device, the thread runs an action, usually [`end_process`]. It works
//! while the main thread is inside the engine.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use candle_core::{Result, Tensor};
use parking_lot::Mutex;

use crate::group::Group;

/// The exit code of a process that its watchdog ends: `EX_TEMPFAIL`, try again.
pub const EXIT_CODE: i32 = 75;

/// How long a collective may wait after a SIGTERM: launchers kill soon after it.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long the engine's abort may take before the process ends without it.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// What the watchdog's thread and the groups share.
struct Watch {
    rank: usize,
    limit: Duration,
    begun: Instant,
    step: AtomicU64,
    /// Milliseconds from `begun` to the SIGTERM; `u64::MAX` before it.
    terminated: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// The collectives that have not returned.
    inside: Vec<Note>,
    /// The newest collective that has returned and may have left work to a device.
    on_device: Option<(Note, Weak<dyn Group>)>,
    next: u64,
    last_state: String,
}

#[derive(Clone)]
struct Note {
    number: u64,
    name: &'static str,
    step: u64,
    start: Instant,
}

/// A group whose collectives are watched.
pub struct Watched {
    group: Arc<dyn Group>,
    watch: Arc<Watch>,
}

impl Watched {
    /// Watches `group` from a thread of its own, until the group is dropped.
    ///
    /// If a collective waits longer than `limit`, the thread calls `action` once with a line that
    /// says so, such as `rank 3 waited 600 s in reduce-scatter, step 1204, for another rank`.
    pub fn new(group: Arc<dyn Group>, limit: Duration, action: impl FnOnce(&str) + Send + 'static) -> Self {
        let watch = Arc::new(Watch {
            rank: group.rank(),
            limit,
            begun: Instant::now(),
            step: AtomicU64::new(0),
            terminated: AtomicU64::new(u64::MAX),
            notes: Mutex::default(),
        });
        let (watched, pause) = (Arc::downgrade(&watch), pause(limit));
        std::thread::spawn(move || {
            while let Some(watch) = watched.upgrade() {
                if let Some(line) = watch.late() {
                    return action(&line);
                }
                drop(watch);
                std::thread::sleep(pause);
            }
        });
        Self { group, watch }
    }

    /// Notes the step of the collectives that follow.
    pub fn at_step(&self, step: u64) {
        self.watch.step.store(step, Ordering::Relaxed);
    }

    /// Notes what the line says last, such as `states/batch_1200 is whole`.
    pub fn last_state(&self, text: impl Into<String>) {
        self.watch.notes.lock().last_state = text.into();
    }

    /// Notes a SIGTERM: from now on collectives may wait [`GRACE`]. A signal handler may call it.
    pub fn terminated(&self) {
        let now = u64::try_from(self.watch.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.watch.terminated.fetch_min(now, Ordering::Relaxed);
    }

    /// Runs a collective under a note.
    fn noted<T>(&self, name: &'static str, collective: impl FnOnce(&dyn Group) -> Result<T>) -> Result<T> {
        let note = self.watch.enter(name);
        let result = collective(&*self.group);
        self.watch.leave(note, &self.group);
        result
    }
}

/// The usual action: prints the line, tries the abort of `group`, and ends the process with
/// [`EXIT_CODE`].
///
/// The process ends even if the abort hangs, and without running anything at its exit.
pub fn end_process(group: &Arc<dyn Group>) -> impl FnOnce(&str) + Send + 'static {
    let group = Arc::downgrade(group);
    move |line| {
        // one write, so that the lines of several ranks do not mix; without stderr there is nobody
        // to tell
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        std::thread::spawn(move || {
            if let Some(group) = group.upgrade() {
                group.abort(EXIT_CODE);
            }
        });
        std::thread::sleep(ABORT_LIMIT);
        exit_now(EXIT_CODE)
    }
}

/// Ends this process at once, without what it would run at its exit.
pub(crate) fn exit_now(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: `_exit` may be called at any time and from any thread.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}

/// The time between two looks at the notes.
fn pause(limit: Duration) -> Duration {
    (limit / 20).clamp(Duration::from_millis(5), Duration::from_millis(500))
}

impl Watch {
    fn enter(&self, name: &'static str) -> Note {
        let mut notes = self.notes.lock();
        notes.next += 1;
        let note = Note {
            number: notes.next,
            name,
            step: self.step.load(Ordering::Relaxed),
            start: Instant::now(),
        };
        notes.inside.push(note.clone());
        note
    }

    fn leave(&self, note: Note, group: &Arc<dyn Group>) {
        let mut notes = self.notes.lock();
        notes.inside.retain(|other| other.number != note.number);
        notes.on_device = Some((note, Arc::downgrade(group)));
    }

    /// The line about a collective that waits too long, if there is one.
    fn late(&self) -> Option<String> {
        let (inside, on_device) = {
            let notes = self.notes.lock();
            (notes.inside.first().cloned(), notes.on_device.clone())
        };
        if let Some(note) = inside
            && let Some(line) = self.late_note(&note)
        {
            return Some(line);
        }
        let (note, group) = on_device?;
        match group.upgrade().map_or(Ok(false), |group| group.is_busy()) {
            Ok(true) => self.late_note(&note),
            Ok(false) => {
                let mut notes = self.notes.lock();
                if notes
                    .on_device
                    .as_ref()
                    .is_some_and(|(newest, _)| newest.number == note.number)
                {
                    notes.on_device = None;
                }
                None
            }
            Err(error) => Some(self.line(&note, &format!("failed in {}", note.name), &format!(": {error}"))),
        }
    }

    fn late_note(&self, note: &Note) -> Option<String> {
        let waited = note.start.elapsed();
        if waited >= self.limit {
            let what = format!("waited {} s in {}", seconds(waited), note.name);
            return Some(self.line(note, &what, ", for another rank"));
        }
        let signal = self
            .begun
            .checked_add(Duration::from_millis(self.terminated.load(Ordering::Relaxed)))?;
        let since = Instant::now().checked_duration_since(signal.max(note.start))?;
        (since >= GRACE).then(|| {
            let what = format!("waited {} s after SIGTERM in {}", seconds(since), note.name);
            self.line(note, &what, ", for another rank")
        })
    }

    fn line(&self, note: &Note, what: &str, reason: &str) -> String {
        let last_state = self.notes.lock().last_state.clone();
        let separator = if last_state.is_empty() { "" } else { "; " };
        format!(
            "rank {} {what}, step {}{reason}{separator}{last_state}",
            self.rank, note.step
        )
    }
}

/// Whole seconds from one second on, otherwise with decimals.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.2}", time.as_secs_f64()),
        whole => whole.to_string(),
    }
}

impl Group for Watched {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.noted("gather", |group| group.gather(record))
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        self.noted("broadcast", |group| group.broadcast(root, bytes))
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        self.noted("reduce-scatter", |group| group.reduce_scatter(data))
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        self.noted("all-gather", |group| group.all_gather(shard))
    }

    fn all_reduce(&self, data: &Tensor) -> Result<Tensor> {
        self.noted("all-reduce", |group| group.all_reduce(data))
    }

    fn send(&self, to: usize, data: &Tensor) -> Result<()> {
        self.noted("send", |group| group.send(to, data))
    }

    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        self.noted("receive", |group| group.receive(from, like))
    }

    fn barrier(&self) -> Result<()> {
        self.noted("barrier", |group| group.barrier())
    }

    /// The part is watched by the same thread, under this group's rank.
    fn split(&self, color: usize) -> Result<Arc<dyn Group>> {
        let group = self.noted("split", |group| group.split(color))?;
        let watch = Arc::clone(&self.watch);
        Ok(Arc::new(Self { group, watch }))
    }

    fn is_busy(&self) -> Result<bool> {
        self.group.is_busy()
    }

    fn end(&self) -> Result<()> {
        self.noted("end", |group| group.end())
    }

    fn abort(&self, code: i32) -> ! {
        self.group.abort(code)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use candle_core::{DType, Device};

    use super::*;
    use crate::threads::Threads;

    /// Two ranks, of which the first is watched; the watchdog's line arrives at the receiver.
    fn watched(limit: Duration) -> (Watched, Threads, Receiver<String>) {
        let mut groups = Threads::with_limit(2, Duration::from_secs(20)).into_iter();
        let (Some(first), Some(second)) = (groups.next(), groups.next()) else {
            unreachable!("two ranks")
        };
        let (sender, lines) = channel();
        let action = move |line: &str| sender.send(line.to_string()).expect("the test listens");
        (Watched::new(Arc::new(first), limit, action), second, lines)
    }

    #[test]
    fn a_late_collective_is_named() -> Result<()> {
        let (group, other, lines) = watched(Duration::from_millis(100));
        group.at_step(1204);
        group.last_state("states/batch_1200 is whole");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| group.reduce_scatter(&Tensor::ones(4, DType::F64, &Device::Cpu)?));
            let line = lines.recv().expect("a line");
            let start = line.starts_with("rank 0 waited 0.1") && line.contains(" s in reduce-scatter, step 1204, ");
            assert!(
                start && line.ends_with("for another rank; states/batch_1200 is whole"),
                "{line}"
            );
            // the rank still waits: the action decides, not the watchdog
            let late = other.reduce_scatter(&Tensor::ones(4, DType::F64, &Device::Cpu)?)?;
            assert_eq!(late.to_vec1::<f64>()?, [2.0; 2]);
            waiting.join().expect("the rank returns").map(drop)
        })
    }

    #[test]
    fn punctual_collectives_are_not_late() -> Result<()> {
        let (group, other, lines) = watched(Duration::from_millis(200));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| (0..40).try_for_each(|_| other.barrier()));
            for _ in 0..40 {
                std::thread::sleep(Duration::from_millis(10)); // 400 ms in all, none of them inside
                group.barrier()?;
            }
            other.join().expect("the rank returns")
        })?;
        drop(group);
        assert!(lines.recv().is_err(), "the thread ends with the group, without a line");
        Ok(())
    }

    #[test]
    fn a_part_is_watched_too() -> Result<()> {
        let (group, other, lines) = watched(Duration::from_millis(100));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| other.split(0));
            let part = group.split(0)?;
            let other = other.join().expect("the rank returns")?;
            let waiting = scope.spawn(move || part.gather(b"record"));
            let line = lines.recv().expect("a line");
            assert!(
                line.starts_with("rank 0 waited 0.1") && line.contains("in gather"),
                "{line}"
            );
            drop(other);
            assert!(waiting.join().expect("the rank returns").is_err());
            Ok(())
        })
    }

    #[test]
    fn after_a_signal_the_grace_counts() {
        let (group, _other, _lines) = watched(Duration::from_secs(600));
        let mut note = group.watch.enter("gather");
        assert_eq!(group.watch.late_note(&note), None);
        group.terminated();
        assert_eq!(group.watch.late_note(&note), None);
        let Some(before) = Instant::now().checked_sub(GRACE) else {
            return; // a machine that started seconds ago
        };
        group.watch.terminated.store(0, Ordering::Relaxed);
        let begun = Watch {
            begun: before,
            notes: Mutex::default(),
            step: AtomicU64::new(3),
            terminated: AtomicU64::new(0),
            ..*group.watch
        };
        assert_eq!(
            begun.late_note(&note),
            None,
            "a collective that begins later has its own grace"
        );
        note.start = before;
        let expected = "rank 0 waited 10 s after SIGTERM in gather, step 0, for another rank";
        assert_eq!(begun.late_note(&note).as_deref(), Some(expected));
    }
}
