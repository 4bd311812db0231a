//! How long a command that has nothing to save may go on after a signal: a second.
//!
//! Work is done in chunks, and most commands look between two chunks whether to end. Where a chunk takes longer, a thread ends the
//! program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::output::note;
use crate::signals::Signals;

/// From the signal to the end.
const PATIENCE: Duration = Duration::from_millis(800);
/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(50);

/// While this lives, the program ends soon after a signal, whatever it is at.
pub struct Patience {
    over: Arc<AtomicBool>,
}

impl Patience {
    /// Begins to watch. `done` says what has been done when the program is ended.
    ///
    /// # Errors
    /// There are no threads left.
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
