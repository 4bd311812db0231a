//! Warns once, a few seconds after the start, that work will take long: the expected time and the
//! reason.

use std::time::{Duration, Instant};

use crate::output::note;

/// The time after which the total is estimated.
const AFTER: Duration = Duration::from_secs(2);
/// Work that takes longer than this prints the warning.
const LONG: Duration = Duration::from_secs(120);

/// Work whose total time is estimated from the completed share.
pub(crate) struct SlowWork {
    begun: Instant,
    /// The work, and why it takes long.
    what: String,
    /// A faster alternative.
    instead: &'static str,
    said: bool,
}

impl SlowWork {
    /// Starts the clock. Prints nothing if `quiet`.
    pub(crate) fn new(what: String, instead: &'static str, quiet: bool) -> Self {
        Self {
            begun: Instant::now(),
            what,
            instead,
            said: quiet,
        }
    }

    /// Records that the share `done` of all operations, 0 to 1, is complete.
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

/// Formats a time: `12 minutes`, `3.5 hours`.
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
