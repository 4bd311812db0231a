//! Ctrl-C and termination: exit codes 130 and 143.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Notes the first signal so that the work can end in good order; a second one ends the program at once.
pub(crate) struct Signals {
    /// Set by the first signal.
    pub(crate) stop: Arc<AtomicBool>,
    received: Arc<AtomicI32>,
}

impl Signals {
    /// Begins to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicI32::new(0));
        for signal in [SIGINT, SIGTERM] {
            // registered first: does nothing until the flag is set by the first signal
            flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
            let (stop, received) = (stop.clone(), received.clone());
            // SAFETY: the handler only stores into atomics, which is async-signal-safe
            unsafe {
                low_level::register(signal, move || {
                    received.store(signal, Ordering::Relaxed);
                    stop.store(true, Ordering::Relaxed);
                })?;
            }
        }
        Ok(Self { stop, received })
    }

    /// The exit code of the signal that was received, if any.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => u8::try_from(128 + signal).ok(),
        }
    }
}
