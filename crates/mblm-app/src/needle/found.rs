//! Needle in a haystack: how often a model finds a value that stands far back, by the length of the context and the depth.
//!
//! A cell of the table is a length L and a depth d. Each of its samples ([`Task::hide`]) is read up to the value of its last query,
//! and the value is then taken from the model byte by byte, the likeliest each time. It is a hit if all of it is right. Beside that
//! there are the share of right bytes and the loss of the value, −ln p of each byte, both given the right bytes before it. (The
//! likeliest continuation equals the value exactly where each byte is the likeliest after the right ones before it, so one pass
//! gives all three.)
//!
//! In sample i the needle stands after ⌊d·(H − J)⌋ + i mod J of the H bytes of text, J the smaller of 16 and H: the samples of a cell
//! have it at all places within a patch, so that a place that a model is bad at does not look like a depth.
//!
//! Samples of a cell go through the model together, as streams, with its state: where the first stage's state does not grow,
//! memory beside the bytes themselves does not depend on L.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use mblm::bytes::ids_from_bytes;
use mblm::eval::Score;
use mblm::generate::{Generator, GeneratorState};
use mblm::{Error, Result};

use super::haystack::Haystack;
use super::hidden::Hidden;
use super::options::Task;

/// Neighbouring places at which the samples of a cell have their needle, in bytes.
const PLACES: usize = 16;

/// What reads prompts and predicts what follows: a model ([`ModelReader`]), or whatever else is to be tested.
pub trait Reader {
    /// Begins anew with prompts of the same number of ids; logits (b, V) of what follows each, `None` where somebody ended the
    /// reading.
    ///
    /// # Errors
    /// Ids that cannot be read.
    fn begin(&mut self, prompts: &[&[u32]]) -> Result<Option<Tensor>>;

    /// Goes on by one id each; logits (b, V) of what follows.
    ///
    /// # Errors
    /// Ids that cannot be read, or no prompts before them.
    fn step(&mut self, ids: &[u32]) -> Result<Tensor>;
}

/// A model as it decodes: prompts in pieces of bounded size, then a byte at a time.
pub struct ModelReader<'a> {
    generator: &'a Generator,
    state: GeneratorState,
    watch: Watch<'a>,
}

/// Told how many ids of each prompt have been read; says whether to go on.
type Watch<'a> = Box<dyn FnMut(usize) -> ControlFlow<()> + Send + 'a>;

impl<'a> ModelReader<'a> {
    /// Reads with this model.
    pub fn new(generator: &'a Generator) -> Self {
        Self::watched(generator, |_| ControlFlow::Continue(()))
    }

    /// Reads with this model; `watch` is told again and again how many ids of each prompt have been read, and says whether to go on.
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

/// A cell of the table: what was found at one length and depth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Samples that were read.
    pub samples: u64,
    /// Samples whose whole value was found.
    pub hits: u64,
    /// Right bytes of values.
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

    /// Adds what was found in other samples.
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

/// The samples of all cells.
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

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Checks that there are samples of `len` bytes.
    ///
    /// # Errors
    /// No room for the needles, places that are not aligned, less text than that, or text with all keys in it.
    pub fn check(&self, len: usize) -> Result<()> {
        self.sample(len, 0.0, 0).map(|_| ())
    }

    /// Sample `index` of the cell of length `len` and depth `depth`, 0 to 1. The same index has the same text and pairs at every
    /// depth.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn sample(&self, len: usize, depth: f64, index: u64) -> Result<Hidden> {
        let room = self.task.haystack_len(len)?;
        let places = PLACES.min(room);
        let place = ((room - places) as f64 * depth) as usize + index as usize % places;
        // the middle of the byte, so that no rounding leads to another one
        let depth = (place as f64 + 0.5) / room as f64;
        self.task
            .hide(&self.haystack, len, Some(depth), &[self.seed, len as u64, index])
    }

    /// Reads some samples of a cell side by side; `None` where the reader was ended.
    ///
    /// # Errors
    /// As [`check`](Self::check), and what the reader finds wrong.
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

/// Whether an id is the likeliest by these logits, the first of equals, and its loss in nats.
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
