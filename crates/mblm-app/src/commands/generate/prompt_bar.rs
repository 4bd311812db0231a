//! The progress bar of a long prompt, with a warning before a very long one.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget};
use mblm::generate::{Generator, OnPrompt};

use crate::output::{grouped, note};
use crate::progress::{self, SlowWork};

/// Prompts below this number of bytes have no bar.
const SHORT: usize = 1 << 14;

/// The progress of reading a prompt.
pub(super) struct PromptBar {
    bar: ProgressBar,
    shared: Arc<Mutex<SlowWork>>,
    /// The coefficients (a, b) of the operations for n bytes read: a·n + b·n².
    flops: (f64, f64),
    bytes: usize,
}

impl PromptBar {
    /// Shows a prompt of `bytes` bytes after `read` bytes that have been read before.
    pub(super) fn new(generator: &Generator, read: usize, bytes: usize, quiet: bool) -> Self {
        let quiet = quiet || bytes < SHORT;
        let bar = progress::byte_bar(Some(bytes as u64), quiet);
        let reason = match generator.prefill_is_quadratic() {
            true => {
                ", where the first stage attends to all that was read before, so that the time grows with the square of the length"
            }
            false => "",
        };
        let what = format!("reading the prompt of {} bytes{reason}", grouped(bytes as u64));
        let instead = "--window crop reads only what the context holds; Ctrl-C ends it";
        // the two coefficients follow from two points
        let at = |bytes: usize| generator.prefill_flops(read, read + bytes);
        let (half, all) = (at(bytes / 2), at(bytes));
        let square = (2.0 * all - 4.0 * half) / (bytes as f64).powi(2).max(1.0);
        Self {
            bar,
            shared: Arc::new(Mutex::new(SlowWork::new(what, instead, quiet))),
            flops: (all / bytes.max(1) as f64 - square * bytes as f64, square),
            bytes,
        }
    }

    /// Returns the callback that is called while the prompt is read.
    pub(super) fn on_prompt(&self) -> OnPrompt {
        let (bar, slow, bytes) = (self.bar.clone(), self.shared.clone(), self.bytes as f64);
        let (linear, square) = self.flops;
        let flops = move |read: f64| linear * read + square * read * read;
        OnPrompt(Arc::new(move |read| {
            bar.set_position(read as u64);
            if read as f64 >= bytes - 1.0 {
                bar.set_draw_target(ProgressDrawTarget::hidden());
            }
            // poisoned only by a panic while a line was printed
            let mut slow = slow.lock().unwrap_or_else(PoisonError::into_inner);
            slow.update(flops(read as f64) / flops(bytes));
        }))
    }

    /// Removes the bar. If `stopped` before the end of the prompt, prints how much was read.
    pub(super) fn finish(&self, stopped: bool) {
        let read = self.bar.position();
        self.bar.finish_and_clear();
        if stopped && self.bytes > 1 && read + 1 < self.bytes as u64 {
            note(&format!(
                "interrupted: {} of the prompt's {} bytes were read",
                grouped(read),
                grouped(self.bytes as u64)
            ));
        }
    }
}
