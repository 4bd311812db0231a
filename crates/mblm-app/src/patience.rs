//! Ends a command that has nothing to save within a second of a signal.
//!
//! Work is done in chunks, and most commands check for a signal between two chunks. If a chunk
//! takes longer than a second, a thread ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::output::note;
use crate::signals::Signals;

/// The time from the signal to the end of the program.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often the thread checks for a signal.
const LOOK: Duration = Duration::from_millis(50);

/// A guard: while it lives, the program ends within a second of a signal.
pub struct Patience {
    over: Arc<AtomicBool>,
}

impl Patience {
    /// Starts the watching thread. `done` describes the finished work when the thread ends the
    /// program.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn with(signals: &Signals, done: impl Fn() -> String + Send + 'static) -> std::io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (signals, is_over) = (signals.clone(), over.clone());
        let watch = move || {
            let mut since = None;
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                if !signals.stopped() || since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
                    continue;
                }
                if !is_over.load(Ordering::Relaxed) {
                    note(&format!("interrupted: {}", done()));
                    std::process::exit(signals.exit_code().unwrap_or(1).into());
                }
            }
        };
        std::thread::Builder::new().name("patience".into()).spawn(watch)?;
        Ok(Self { over })
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
