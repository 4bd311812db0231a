//! Scores of a file or reader in possibly overlapping windows; memory holds one batch of windows.
//!
//! With context C and stride S, window w is the C bytes from w · S on; the last window may be
//! shorter. It scores the bytes that no earlier window has scored: the first window all bytes,
//! later windows their last S, whose positions are C − S … C − 1.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{ByteScore, EvalOptions, to_host};
use crate::model::{Ids, Mblm};
use crate::{Error, Result};

/// An iterator over batches of windows with the scores of all bytes, in order. Ends after an error.
pub struct Windows<'a, R> {
    model: &'a Mblm,
    reader: R,
    /// The path for error messages.
    path: Option<PathBuf>,
    options: EvalOptions,
    /// The bytes from the start of the next window on.
    buffer: Vec<u8>,
    /// The offset of the buffer's first byte.
    start: u64,
    /// The number of scored bytes in the buffer: C − S after the first window.
    scored: usize,
    ended: bool,
}

impl<'a> Windows<'a, File> {
    /// Opens the windows of a file.
    ///
    /// # Errors
    /// A file that cannot be opened, a folder, or invalid options.
    pub fn open(model: &'a Mblm, path: &Path, options: EvalOptions) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::file(path, error))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::file(
                path,
                "is a folder; expected a file (give several files to score them all)",
            ));
        }
        let mut windows = Self::new(model, file, options)?;
        windows.path = Some(path.to_path_buf());
        Ok(windows)
    }
}

impl<'a, R: Read> Windows<'a, R> {
    /// Creates the windows of a reader.
    ///
    /// # Errors
    /// Invalid options.
    pub fn new(model: &'a Mblm, reader: R, options: EvalOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self {
            model,
            reader,
            path: None,
            options,
            buffer: Vec::new(),
            start: 0,
            scored: 0,
            ended: false,
        })
    }

    /// The scores of the next windows; empty at the end.
    fn advance(&mut self) -> Result<Vec<ByteScore>> {
        let EvalOptions {
            context,
            stride,
            batch_size,
        } = self.options;
        self.fill(context.saturating_add((batch_size - 1).saturating_mul(stride)))?;
        let Some(beyond) = self.buffer.len().checked_sub(context) else {
            self.ended = true;
            return self.last();
        };
        let count = beyond / stride + 1;
        let losses = self.losses(count, stride, context)?;
        let mut scores = Vec::with_capacity(count * stride);
        for (window, losses) in losses.chunks(context).enumerate() {
            let first = if window == 0 { self.scored } else { context - stride };
            self.push(&mut scores, window * stride, first, losses);
        }
        self.buffer.drain(..count * stride);
        self.start += (count * stride) as u64;
        self.scored = context - stride;
        Ok(scores)
    }

    /// The scores of the rest at the end, shorter than a window.
    fn last(&mut self) -> Result<Vec<ByteScore>> {
        let mut scores = Vec::new();
        if self.buffer.len() > self.scored {
            let losses = self.losses(1, 0, self.buffer.len())?;
            self.push(&mut scores, 0, self.scored, &losses);
        }
        Ok(scores)
    }

    /// Reads until the buffer has `len` bytes or the reader ends.
    fn fill(&mut self, len: usize) -> Result<()> {
        let missing = len.saturating_sub(self.buffer.len()) as u64;
        let reader = &mut self.reader;
        reader
            .take(missing)
            .read_to_end(&mut self.buffer)
            .map_err(|error| Error::input(error.to_string()))?;
        Ok(())
    }

    /// The losses (windows · context) of the buffer's windows, one every `stride` bytes.
    fn losses(&self, windows: usize, stride: usize, context: usize) -> Result<Vec<f32>> {
        let ids: Vec<u32> = (0..windows)
            .flat_map(|window| &self.buffer[window * stride..window * stride + context])
            .map(|byte| u32::from(*byte))
            .collect();
        to_host(&self.model.losses(Ids::new(&ids, windows, context))?)
    }

    /// The weight of an id: 0 for the padding id, as in training.
    fn weight(&self, id: u32) -> f64 {
        f64::from(u8::from(id != self.model.config().pad_token_id))
    }

    /// Adds the scores of a window, from position `first` on; it begins at `begin` in the buffer.
    fn push(&self, scores: &mut Vec<ByteScore>, begin: usize, first: usize, losses: &[f32]) {
        scores.extend((first..losses.len()).map(|position| ByteScore {
            offset: self.start + (begin + position) as u64,
            id: u32::from(self.buffer[begin + position]),
            position,
            nats: f64::from(losses[position]),
            weight: self.weight(u32::from(self.buffer[begin + position])),
        }));
    }
}

impl<R: Read> Iterator for Windows<'_, R> {
    type Item = Result<Vec<ByteScore>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.advance() {
            Ok(scores) if scores.is_empty() => None,
            Ok(scores) => Some(Ok(scores)),
            Err(error) => {
                self.ended = true;
                Some(Err(match (error, &self.path) {
                    (Error::Input(message), Some(path)) => Error::file(path, message),
                    (error, _) => error,
                }))
            }
        }
    }
}
