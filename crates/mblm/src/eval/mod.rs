//! How well a model predicts bytes: bits per byte of files.
//!
//! A file is cut into windows of the context length, which are scored independently: the first byte of a window is predicted
//! without context, the last with all bytes of the window before it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use candle_core::Tensor;

use crate::model::Mblm;
use crate::{Error, Result};

/// How files are scored.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    /// Bytes of a window.
    pub context: usize,
    /// Windows scored at once.
    pub batch_size: usize,
}

/// The score of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Bytes scored.
    pub bytes: u64,
    /// The sum of their losses, in nats.
    pub nats: f64,
}

impl Score {
    /// Mean loss in bits per byte; 0 for no bytes.
    pub fn bits_per_byte(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            bytes => self.nats / bytes as f64 / std::f64::consts::LN_2,
        }
    }

    /// Adds the score of other bytes.
    pub fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.nats += other.nats;
    }
}

/// Scores a file, whatever its length, in memory for a few windows. `progress` hears the number of bytes scored so far.
///
/// # Errors
/// A file that cannot be read or is empty; a byte outside the model's vocabulary.
pub fn score_file(model: &Mblm, path: &Path, options: &EvalOptions, progress: &mut dyn FnMut(u64)) -> Result<Score> {
    let file = File::open(path).map_err(|error| Error::file(path, error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Error::file(
            path,
            "is a folder; expected a file (give several files to score them all)",
        ));
    }
    let score = score_reader(model, file, options, progress).map_err(|error| match error {
        Error::Input(message) => Error::file(path, message),
        other => other,
    })?;
    if score.bytes == 0 {
        return Err(Error::file(path, "is empty: there are no bytes to score"));
    }
    Ok(score)
}

/// Scores all bytes of a reader.
///
/// # Errors
/// As [`score_file`], except that no bytes at all are fine.
pub fn score_reader(
    model: &Mblm,
    mut reader: impl Read,
    options: &EvalOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Score> {
    let window = options.context.max(1);
    let mut buffer = vec![0; window * options.batch_size.max(1)];
    let mut score = Score::default();
    loop {
        let filled = fill(&mut reader, &mut buffer).map_err(|error| Error::input(error.to_string()))?;
        let (whole, rest) = buffer[..filled].split_at(filled / window * window);
        score.add(score_windows(model, whole, window)?);
        score.add(score_windows(model, rest, rest.len().max(1))?);
        progress(score.bytes);
        if filled < buffer.len() {
            return Ok(score);
        }
    }
}

/// Scores consecutive windows of `window` bytes each.
fn score_windows(model: &Mblm, bytes: &[u8], window: usize) -> Result<Score> {
    if bytes.is_empty() {
        return Ok(Score::default());
    }
    let ids: Vec<u32> = bytes.iter().map(|byte| u32::from(*byte)).collect();
    let ids = Tensor::from_vec(ids, (bytes.len() / window, window), model.device())?;
    let losses: Vec<f32> = model
        .losses(&ids)?
        .to_dtype(candle_core::DType::F32)?
        .flatten_all()?
        .to_vec1()?;
    Ok(Score {
        bytes: bytes.len() as u64,
        nats: losses.iter().map(|loss| f64::from(*loss)).sum(),
    })
}

/// Reads until the buffer is full or the reader ends; returns the number of bytes read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
