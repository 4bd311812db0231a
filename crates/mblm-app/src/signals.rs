//! Signals that end the program: exit code 128 + N for signal N, such as 130 for Ctrl-C and 143 for
//! termination. In a conversation, Ctrl-C ends an answer; at the prompt it ends the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Signals other than Ctrl-C that end the program cleanly: termination, a closed terminal or
/// connection, and the signals that batch systems send before a job's time limit.
#[cfg(unix)]
const ENDING: [i32; 5] = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];
#[cfg(not(unix))]
const ENDING: [i32; 1] = [SIGTERM];

/// Whether the parent process made this process ignore a signal, as `nohup` does with SIGHUP.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a value of this plain struct, and a null action only asks for the one
    // that is set
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
#[cfg(not(unix))]
fn is_ignored(_: i32) -> bool {
    false
}

/// Signals that end the program at once if they come twice: people send them. Other signals repeat
/// by themselves: SIGHUP comes from a terminal and from its shell, SIGXCPU every second.
const INSISTING: [i32; 2] = [SIGINT, SIGTERM];

/// Records the first signal so that the work can end cleanly; a second Ctrl-C or termination ends
/// the program at once.
#[derive(Clone)]
pub struct Signals {
    /// Set by the first signal.
    pub stop: Arc<AtomicBool>,
    received: Arc<AtomicI32>,
    /// Set by the first signal of [`INSISTING`].
    insisted: Arc<AtomicBool>,
    /// Set while the program waits for input: a signal then ends the program at once and cleanly.
    idle: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen.
    pub fn listen() -> io::Result<Self> {
        Self::listen_with(128 + SIGINT)
    }

    /// Starts to listen for a conversation. While the program is [`idle`](Self::idle), Ctrl-C ends
    /// it with exit code 0, and termination with 143.
    pub fn listen_in_conversation() -> io::Result<Self> {
        Self::listen_with(0)
    }

    fn listen_with(interrupted_when_idle: i32) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicI32::new(0));
        let idle = Arc::new(AtomicBool::new(false));
        let insisted = Arc::new(AtomicBool::new(false));
        let others = ENDING.into_iter().filter(|signal| !is_ignored(*signal));
        let others = others.map(|signal| (signal, 128 + signal));
        for (signal, when_idle) in std::iter::once((SIGINT, interrupted_when_idle)).chain(others) {
            flag::register_conditional_shutdown(signal, when_idle, idle.clone())?;
            let insists = INSISTING.contains(&signal);
            if insists {
                // registered before the handler, so that it does nothing on the first signal
                flag::register_conditional_shutdown(signal, 128 + signal, insisted.clone())?;
            }
            let (stop, received, insisted) = (stop.clone(), received.clone(), insisted.clone());
            // SAFETY: the handler only stores into atomics, which is async-signal-safe
            unsafe {
                low_level::register(signal, move || {
                    // the first signal determines the exit code
                    let _ = received.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
                    insisted.fetch_or(insists, Ordering::Relaxed);
                    stop.store(true, Ordering::Relaxed);
                })?;
            }
        }
        Ok(Self {
            stop,
            received,
            insisted,
            idle,
        })
    }

    /// Sets whether a signal may end the program at once.
    pub fn idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether a signal has asked the program to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns whether Ctrl-C came, and forgets it. Termination is not forgotten.
    pub fn take_interrupt(&self) -> bool {
        let came = self
            .received
            .compare_exchange(SIGINT, 0, Ordering::Relaxed, Ordering::Relaxed);
        if came.is_ok() {
            self.stop.store(false, Ordering::Relaxed);
            self.insisted.store(false, Ordering::Relaxed);
        }
        came.is_ok()
    }

    /// The exit code of the received signal, if any.
    pub fn exit_code(&self) -> Option<u8> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => u8::try_from(128 + signal).ok(),
        }
    }
}
