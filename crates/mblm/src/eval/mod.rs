//! Byte-by-byte prediction scores of a model on files and on splits of data sets.
//!
//! Each byte is scored once, with its loss −ln p(byte | the bytes before it in its window) in nats.
//! A window is a piece of a file ([`Windows`]) or a sample of a data set ([`SplitScores`]); windows
//! are independent. Both are iterators over the scores of a few windows at a time, so memory does
//! not depend on the size of the data. [`Score`] sums scores, [`ByPosition`] by position in the
//! window.
//!
//! | file | holds |
//! |---|---|
//! | `windows` | files and readers in windows that may overlap |
//! | `split` | the samples of a data set, for decoders and encoders |
//! | `positions` | the mean loss by position in the context |
//!
//! ```
//! use mblm::eval::{ByteScore, Score};
//!
//! let byte = ByteScore { offset: 0, id: 97, position: 0, nats: std::f64::consts::LN_2, weight: 1.0 };
//! let mut score = Score::default();
//! score.count(&byte);
//! assert_eq!((score.bytes, score.bits_per_byte()), (1, 1.0));
//! ```

mod positions;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod windows;

use std::f64::consts::LN_2;

use crate::{Error, Result};

pub use positions::{Buckets, ByPosition};
pub use split::SplitScores;
pub use stream::StreamScores;
pub use windows::Windows;

/// The options for scoring files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Bytes of a window.
    pub context: usize,
    /// Bytes from the start of a window to the start of the next, 1 to `context`. All bytes of the
    /// first window count, and the last `stride` bytes of later ones, which have at least `context`
    /// − `stride` bytes before them. The work is `context` / `stride` passes over the file.
    pub stride: usize,
    /// Windows scored at once.
    pub batch_size: usize,
}

impl EvalOptions {
    /// Adjacent windows without overlap, four at once.
    pub fn new(context: usize) -> Self {
        Self {
            context,
            stride: context,
            batch_size: 4,
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// A context, stride or batch size of 0, or a stride longer than the context.
    pub fn validate(&self) -> Result<()> {
        let Self {
            context,
            stride,
            batch_size,
        } = *self;
        if context == 0 || batch_size == 0 {
            return Err(Error::input(format!(
                "a context of {context} bytes, {batch_size} windows at once: expected at least 1 of each"
            )));
        }
        if stride == 0 || stride > context {
            return Err(Error::input(format!(
                "a stride of {stride} bytes: expected 1 to the context, which is {context}; a longer stride would skip \
                 bytes"
            )));
        }
        Ok(())
    }
}

/// The score of one byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ByteScore {
    /// The offset in the file, or in the concatenated samples of the split.
    pub offset: u64,
    /// The byte; in samples of a data set possibly a special id.
    pub id: u32,
    /// The position in the window: the number of bytes of context.
    pub position: usize,
    /// The loss in nats.
    pub nats: f64,
    /// The weight in sums: 0 if a data set excludes the byte, 1 for all bytes of files.
    pub weight: f64,
}

impl ByteScore {
    /// The surprisal, −log₂ p, unweighted.
    pub fn bits(&self) -> f64 {
        self.nats / LN_2
    }
}

/// The score of a number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Bytes that count.
    pub bytes: u64,
    /// The weighted sum of their losses, in nats.
    pub nats: f64,
}

impl Score {
    /// Mean loss in bits per byte; 0 for no bytes.
    pub fn bits_per_byte(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            bytes => self.nats / bytes as f64 / LN_2,
        }
    }

    /// Fails on a NaN or infinite loss; `place` names the data.
    ///
    /// # Errors
    /// [`Error::NoNumbers`].
    pub fn check(&self, place: impl Into<String>) -> Result<()> {
        match self.nats.is_finite() {
            true => Ok(()),
            false => Err(Error::NoNumbers {
                place: place.into(),
                value: self.nats,
            }),
        }
    }

    /// Adds another score.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.nats += other.nats;
    }

    /// Adds a byte; weight 0 does not count, even with a loss that is not finite.
    pub fn count(&mut self, byte: &ByteScore) {
        if byte.weight != 0.0 {
            self.bytes += 1;
            self.nats += byte.nats * byte.weight;
        }
    }
}

/// The score of all bytes of [`Windows`] or [`SplitScores`].
///
/// # Errors
/// The first error of the iterator.
pub fn total(groups: impl IntoIterator<Item = Result<Vec<ByteScore>>>) -> Result<Score> {
    let mut score = Score::default();
    for group in groups {
        group?.iter().for_each(|byte| score.count(byte));
    }
    Ok(score)
}

/// Copies a tensor of losses (B, L) to the host, (B · L).
fn to_host(losses: &candle_core::Tensor) -> Result<Vec<f32>> {
    Ok(losses.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?)
}
