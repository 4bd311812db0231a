//! What will take long says so: once, some seconds after the beginning, with the time that it will take and the reason.

use std::time::{Duration, Instant};

use crate::output::note;

/// After this time the rest is foreseen.
const AFTER: Duration = Duration::from_secs(2);
/// What takes longer says so.
const LONG: Duration = Duration::from_secs(120);

/// Work whose end is foreseen from the share that is done.
pub(crate) struct SlowWork {
    begun: Instant,
    /// What is done, and why it takes long.
    what: String,
    /// What to try instead.
    instead: &'static str,
    said: bool,
}

impl SlowWork {
    /// Begins now. Says nothing if `quiet`.
    pub(crate) fn new(what: String, instead: &'static str, quiet: bool) -> Self {
        Self {
            begun: Instant::now(),
            what,
            instead,
            said: quiet,
        }
    }

    /// Notes that the share `done` of all operations, 0 to 1, is done.
    pub(crate) fn update(&mut self, done: f64) {
        let elapsed = self.begun.elapsed();
        if self.said || elapsed < AFTER || done <= 0.0 {
            return;
        }
        self.said = true;
        let seconds = elapsed.as_secs_f64() / done;
        if seconds > LONG.as_secs_f64() {
            let (what, instead) = (&self.what, self.instead);
            note(&format!("{what}: about {} in all; {instead}", duration(seconds)));
        }
    }
}

/// A time for people: `12 minutes`, `3.5 hours`.
fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 5400.0 => format!("{:.0} minutes", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.1} hours", seconds / 3600.0),
        seconds => format!("{:.0} days", seconds / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        assert_eq!(duration(130.0), "2 minutes");
        assert_eq!(duration(12600.0), "3.5 hours");
        assert_eq!(duration(400_000.0), "5 days");
    }
}
