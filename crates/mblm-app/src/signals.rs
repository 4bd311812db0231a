//! Ctrl-C, termination and the like: exit codes 130, 143, 128 + N for signal N; in a conversation Ctrl-C ends an answer, and at the prompt the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Signals that end the program in good order, beside Ctrl-C: termination, a terminal or connection that was closed, and what batch
/// systems send before a job's time is over.
#[cfg(unix)]
const ENDING: [i32; 5] = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];
#[cfg(not(unix))]
const ENDING: [i32; 1] = [SIGTERM];

/// Whether whoever began this process has it ignore a signal, as `nohup` does with SIGHUP.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a value of this plain struct, and a null action only asks for the one that is set
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
#[cfg(not(unix))]
fn is_ignored(_: i32) -> bool {
    false
}

/// Signals of which a second one ends the program at once: those that people send. Others come several times by themselves: SIGHUP from a
/// terminal and from the shell in it, SIGXCPU every second.
const INSISTING: [i32; 2] = [SIGINT, SIGTERM];

/// Notes the first signal so that the work can end in good order; a second Ctrl-C or termination ends the program at once.
#[derive(Clone)]
pub struct Signals {
    /// Set by the first signal.
    pub stop: Arc<AtomicBool>,
    received: Arc<AtomicI32>,
    /// Set by the first signal of those of which a second one ends the program.
    insisted: Arc<AtomicBool>,
    /// Set while a signal ends the program at once and in good order, as nothing is being done.
    idle: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> io::Result<Self> {
        Self::listen_with(128 + SIGINT)
    }

    /// Begins to listen for a conversation, in which [`idle`](Self::idle) says that a line is waited for: Ctrl-C then ends the
    /// program with exit code 0, termination with 143.
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
                // registered before the handler: does nothing until the flag is set by the first signal
                flag::register_conditional_shutdown(signal, 128 + signal, insisted.clone())?;
            }
            let (stop, received, insisted) = (stop.clone(), received.clone(), insisted.clone());
            // SAFETY: the handler only stores into atomics, which is async-signal-safe
            unsafe {
                low_level::register(signal, move || {
                    // the first one says how the program ends
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

    /// Says whether a signal may end the program at once.
    pub fn idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether a signal asked for an end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether Ctrl-C came, which is forgotten with that; termination is not.
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

    /// The exit code of the signal that was received, if any.
    pub fn exit_code(&self) -> Option<u8> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            signal => u8::try_from(128 + signal).ok(),
        }
    }
}
