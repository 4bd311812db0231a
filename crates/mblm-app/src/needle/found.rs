//! Needle in a haystack: how often a model finds a value far back in its context, by context length
//! and depth.
//!
//! A cell of the table is a length L and a depth d. The model reads each of its samples
//! ([`Task::hide`]) up to the value of the last query, and the likeliest byte at each position of
//! the value is compared with the right one. A sample is a hit if all bytes are right. The share of
//! right bytes and the loss of the value, −ln p of each byte, are also measured. All predictions
//! are made after the right bytes: greedy decoding gives the exact value if and only if every byte
//! is the likeliest after the right ones, so one pass gives all three results.
//!
//! In sample i the needle is after ⌊d·(H − J)⌋ + i mod J of the H bytes of text, J = min(16, H).
//! The needles of a cell thus lie at all offsets within a patch, so that an offset at which a model
//! is weak does not look like a depth.
//!
//! The samples of a cell go through the model together, as streams, with its state. If the first
//! stage's state does not grow, memory beyond the bytes themselves does not depend on L.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use mblm::bytes::ids_from_bytes;
use mblm::eval::Score;
use mblm::generate::{Generator, GeneratorState};
use mblm::{Error, Result};

use super::haystack::Haystack;
use super::hidden::Hidden;
use super::options::Task;

/// The number of neighboring needle positions of a cell's samples, in bytes.
const PLACES: usize = 16;

/// Reads prompts and predicts the next id: a model ([`ModelReader`]), or another predictor to be
/// tested.
pub trait Reader {
    /// Starts over with prompts of equal length. Returns the logits (b, V) of the id after each
    /// prompt; `None` if the reading was interrupted.
    ///
    /// # Errors
    /// An id cannot be read.
    fn begin(&mut self, prompts: &[&[u32]]) -> Result<Option<Tensor>>;

    /// Reads one more id of each prompt. Returns the logits (b, V) of the next id.
    ///
    /// # Errors
    /// An id cannot be read, or no prompt was read before.
    fn step(&mut self, ids: &[u32]) -> Result<Tensor>;
}

/// Reads with a model: prompts in chunks of bounded size, then one byte at a time.
pub struct ModelReader<'a> {
    generator: &'a Generator,
    state: GeneratorState,
    watch: Watch<'a>,
}

/// Called with the number of ids read of each prompt; returns whether to continue.
type Watch<'a> = Box<dyn FnMut(usize) -> ControlFlow<()> + Send + 'a>;

impl<'a> ModelReader<'a> {
    /// Reads with the model of `generator`.
    pub fn new(generator: &'a Generator) -> Self {
        Self::watched(generator, |_| ControlFlow::Continue(()))
    }

    /// Reads with the model of `generator`. `watch` is called repeatedly with the number of ids
    /// read of each prompt, and returns whether to continue.
    pub fn watched(generator: &'a Generator, watch: impl FnMut(usize) -> ControlFlow<()> + Send + 'a) -> Self {
        Self {
            generator,
            state: generator.begin(1),
            watch: Box::new(watch),
        }
    }
}

impl Reader for ModelReader<'_> {
    fn begin(&mut self, prompts: &[&[u32]]) -> Result<Option<Tensor>> {
        self.state = self.generator.begin(prompts.len());
        match prompts.first() {
            Some([]) => self.generator.first_logits(prompts.len()).map(Some),
            _ => self
                .generator
                .prefill_watched(&mut self.state, prompts, &mut *self.watch),
        }
    }

    fn step(&mut self, ids: &[u32]) -> Result<Tensor> {
        self.generator.step(&mut self.state, ids)
    }
}

/// The results of a cell of the table: one length and one depth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// The number of samples tested.
    pub samples: u64,
    /// The number of samples whose whole value was found.
    pub hits: u64,
    /// The number of right bytes in values.
    pub right_bytes: u64,
    /// The loss of the values.
    pub value: Score,
}

impl Found {
    /// The share of samples whose whole value was found; 0 for no samples.
    pub fn accuracy(&self) -> f64 {
        share(self.hits, self.samples)
    }

    /// The share of the values' bytes that were right; 0 for no samples.
    pub fn byte_accuracy(&self) -> f64 {
        share(self.right_bytes, self.value.bytes)
    }

    /// Adds the results of other samples.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.hits += other.hits;
        self.right_bytes += other.right_bytes;
        self.value.add(other.value);
    }
}

fn share(part: u64, of: u64) -> f64 {
    match of {
        0 => 0.0,
        of => part as f64 / of as f64,
    }
}

/// A test with samples for all cells.
pub struct NeedleTest {
    task: Task,
    haystack: Haystack,
    seed: u64,
}

impl NeedleTest {
    /// Hides the needles of `task` in `haystack`.
    pub fn new(task: Task, haystack: Haystack, seed: u64) -> Self {
        Self { task, haystack, seed }
    }

    /// Returns the task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Checks that samples of `len` bytes can be made.
    ///
    /// # Errors
    /// There is no room for the needles, the length is not aligned, the text is too short, or the
    /// text contains all keys.
    pub fn check(&self, len: usize) -> Result<()> {
        self.sample(len, 0.0, 0).map(|_| ())
    }

    /// Returns sample `index` of the cell of length `len` and depth `depth`, 0 to 1. The same index
    /// gives the same text and pairs at every depth.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn sample(&self, len: usize, depth: f64, index: u64) -> Result<Hidden> {
        let room = self.task.haystack_len(len)?;
        let places = PLACES.min(room);
        let place = ((room - places) as f64 * depth) as usize + index as usize % places;
        // the middle of the byte, so that rounding cannot reach another byte
        let depth = (place as f64 + 0.5) / room as f64;
        self.task
            .hide(&self.haystack, len, Some(depth), &[self.seed, len as u64, index])
    }

    /// Tests samples of a cell side by side; `None` if the reader was interrupted.
    ///
    /// # Errors
    /// As [`check`](Self::check), and the errors of the reader.
    pub fn read(
        &self,
        reader: &mut dyn Reader,
        len: usize,
        depth: f64,
        samples: std::ops::Range<u64>,
    ) -> Result<Option<Found>> {
        let hidden = samples
            .map(|index| self.sample(len, depth, index))
            .collect::<Result<Vec<_>>>()?;
        if hidden.is_empty() {
            return Ok(Some(Found::default()));
        }
        let prompts: Vec<Vec<u32>> = hidden.iter().map(|hidden| ids_from_bytes(hidden.prompt())).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let answers: Vec<Vec<u32>> = hidden.iter().map(|hidden| ids_from_bytes(hidden.answer())).collect();
        let Some(mut logits) = reader.begin(&prompts)? else {
            return Ok(None);
        };
        let mut right = vec![0; answers.len()];
        let mut value = Score::default();
        let value_len = self.task.options().value_len;
        for place in 0..value_len {
            let ids: Vec<u32> = answers.iter().map(|answer| answer[place]).collect();
            let rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            if rows.len() != ids.len() {
                let found = rows.len();
                return Err(Error::input(format!(
                    "expected logits of {} prompts, found {found}",
                    ids.len()
                )));
            }
            for ((row, id), right) in rows.iter().zip(&ids).zip(&mut right) {
                let (likeliest, nats) = judge(row, *id)?;
                *right += usize::from(likeliest);
                value.add(Score { bytes: 1, nats });
            }
            if place + 1 < value_len {
                logits = reader.step(&ids)?;
            }
        }
        Ok(Some(Found {
            samples: answers.len() as u64,
            hits: right.iter().filter(|right| **right == value_len).count() as u64,
            right_bytes: right.iter().sum::<usize>() as u64,
            value,
        }))
    }
}

/// Returns whether an id has the highest logit (the first of equal ones), and its loss in nats.
fn judge(logits: &[f32], id: u32) -> Result<(bool, f64)> {
    let wanted = logits.get(id as usize).copied().ok_or_else(|| {
        let ids = logits.len();
        Error::input(format!("id {id} of a value is outside the model's vocabulary of {ids}"))
    })?;
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let first = logits.iter().position(|logit| *logit == most);
    Ok((first == Some(id as usize), f64::from(most - wanted) + sum.ln()))
}
