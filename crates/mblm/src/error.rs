//! The library's error: what was expected, what was found, and what to try.

use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be used. The message names file and line where they are known.
    #[error("{0}")]
    Config(String),

    /// An argument that does not fit the model or the call: ids out of range, shapes, lengths.
    #[error("{0}")]
    Input(String),

    /// A file that cannot be read, written or understood.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, what was found, what to try.
        message: String,
    },

    /// A loss or gradient that is infinite or not a number.
    #[error(
        "{what} is {value} at {place}; {}; try a lower learning rate or gradient_clipping: 1.0, or inspect these \
         samples",
        match state {
            Some(state) => format!("the last good state is {}", state.display()),
            None => "there is no earlier state".into(),
        }
    )]
    NotFinite {
        /// `the loss`, `the norm of the gradient`, `the validation loss`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The offending batch.
        place: String,
        /// The folder of the newest training state, which is from before.
        state: Option<PathBuf>,
    },

    /// A model whose predictions are no numbers.
    #[error(
        "{place}: the model's output is not finite ({value}): its weights are damaged, or its training diverged; `mblm \
         inspect --tensors` shows which tensors are not finite; use an earlier model of the run"
    )]
    NoNumbers {
        /// What was to be predicted.
        place: String,
        /// The value that is none.
        value: f64,
    },

    /// A training pass was asked to stop and did, between two chunks of its first stage: its
    /// gradients are those of a part.
    #[error("the training pass was stopped after {done} of {of} chunks")]
    Stopped {
        /// Parts that were done.
        done: usize,
        /// Parts of the whole pass.
        of: usize,
    },

    /// The memory of a device is used up. The message says by what, and what to lower.
    #[error("{0}")]
    OutOfMemory(String),

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// A configuration error.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    /// An argument error.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// An error about a file: a message of our own, or what the system said.
    pub fn file(path: impl AsRef<Path>, message: impl ToString) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            message: message.to_string(),
        }
    }
}
