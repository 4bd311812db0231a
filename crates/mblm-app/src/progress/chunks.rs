//! Shows the progress of a long batch whose first stage is computed in chunks: a bar under the
//! run's bar, or a plain line now and then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mblm::train::OnChunk;

use crate::output::note;

/// Batches that take less time show no progress of their own.
const SHOWN_AFTER: Duration = Duration::from_secs(2);

/// How often a plain line is printed if stderr is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// The progress of the current batch.
#[derive(Clone)]
pub(super) struct Chunking {
    bars: MultiProgress,
    /// Shown once the batch has taken [`SHOWN_AFTER`].
    bar: ProgressBar,
    terminal: bool,
    times: Arc<Mutex<Times>>,
}

struct Times {
    begun: Instant,
    last_line: Instant,
}

impl Chunking {
    /// Adds its bar to `bars` if `terminal`.
    pub(super) fn new(bars: &MultiProgress, terminal: bool) -> Self {
        let now = Instant::now();
        let style = ProgressStyle::with_template("this batch {wide_bar} {percent} %  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bars: bars.clone(),
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_style(style),
            terminal,
            times: Arc::new(Mutex::new(Times {
                begun: now,
                last_line: now,
            })),
        }
    }

    /// Returns the callback that a run calls after each chunk.
    pub(super) fn listener(&self) -> OnChunk {
        let chunks = self.clone();
        Arc::new(move |done, of| chunks.told(done, of))
    }

    fn told(&self, done: usize, of: usize) {
        // poisoned only by a panic between two assignments
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if done == 0 {
            *times = Times {
                begun: now,
                last_line: now,
            };
            self.bar.reset();
            self.bar.set_length(of as u64);
            return;
        }
        let taken = now - times.begun;
        if self.terminal {
            self.bar.set_position(done as u64);
            if self.bar.is_hidden() && taken >= SHOWN_AFTER {
                self.bars.add(self.bar.clone());
            }
        } else if now - times.last_line >= LINE_INTERVAL {
            times.last_line = now;
            let left = taken.mul_f64((of - done.min(of)) as f64 / done as f64);
            note(&format!(
                "  this batch: {} %, {} left",
                100 * done / of.max(1),
                HumanDuration(left)
            ));
        }
    }

    /// Removes the bar at the end of a batch.
    pub(super) fn end(&self) {
        if !self.bar.is_hidden() {
            self.bar.finish_and_clear();
            self.bars.remove(&self.bar);
        }
    }
}
