//! One sample: needles hidden in a window of natural text, and the queries after it.
//!
//! ```text
//! text [key qxv: 4821]↵ text … text [key abd: 0017]↵ text [key qxv? 4821]↵
//!      needle                                             query
//! ```
//!
//! A needle at depth d is after ⌊d·H / a⌋·a of the H bytes of text, where a is the option `align`;
//! needles at the same position follow each other. All random choices depend only on the seed, a
//! list of numbers. Keys are drawn until they differ and do not occur in the text. If a key then
//! occurs elsewhere in the sample, for example within a value, the whole sample is drawn again.

use std::ops::Range;

use mblm::data::hash::key;
use mblm::{Error, Result};
use memchr::memmem::{Finder, find_iter};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::haystack::Haystack;
use super::options::Task;

/// The maximum number of draws of a key, or of a whole sample.
const ATTEMPTS: u64 = 1000;

/// A sample and the positions of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The bytes of the sample.
    pub bytes: Vec<u8>,
    /// The byte ranges of the needles, first to last.
    pub needles: Vec<Range<usize>>,
    /// The needle of each query, an index into `needles`.
    pub asked: Vec<usize>,
    /// The byte ranges of the values that answer the queries.
    pub answers: Vec<Range<usize>>,
}

impl Hidden {
    /// The bytes before the value of the last query: the model's prompt.
    pub fn prompt(&self) -> &[u8] {
        &self.bytes[..self.last().start]
    }

    /// The value of the last query: the expected answer.
    pub fn answer(&self) -> &[u8] {
        &self.bytes[self.last()]
    }

    fn last(&self) -> Range<usize> {
        self.answers.last().cloned().unwrap_or_default()
    }
}

/// A key and its value.
struct Pair {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Task {
    /// Makes a sample of `len` bytes with text of `haystack`. The same `seed`, a list of numbers,
    /// gives the same sample. `depth` overrides the option.
    ///
    /// # Errors
    /// There is no room for the needles, the text is too short or cannot be read, or it contains
    /// all keys.
    pub fn hide(&self, haystack: &Haystack, len: usize, depth: Option<f64>, seed: &[u64]) -> Result<Hidden> {
        let room = self.haystack_len(len)?;
        let most = haystack.last_offset(room)?;
        let mut text = vec![0; room];
        for attempt in 0..ATTEMPTS {
            let mut draw = Draw::new(seed, attempt);
            haystack.read(draw.below(most.saturating_add(1)), &mut text)?;
            let pairs = self.pairs(&text, &mut draw)?;
            let places = self.places(room, depth.or(self.options.depth), &mut draw);
            let order = self.order(&mut draw);
            let hidden = self.assemble(&text, &pairs, &places, &order);
            let once = |(index, pair): (usize, &Pair)| {
                let asked = order.iter().filter(|asked| **asked == index).count();
                find_iter(&hidden.bytes, &pair.key).count() == 1 + asked
            };
            if pairs.iter().enumerate().all(once) {
                return Ok(hidden);
            }
        }
        Err(Error::input(format!(
            "{ATTEMPTS} samples of {len} bytes all had a key twice; expected keys that differ from values and formats: raise \
             key_len, or give key_alphabet other characters than value_alphabet and the formats have"
        )))
    }

    /// Draws values, and distinct keys that do not occur in the text.
    fn pairs(&self, text: &[u8], draw: &mut Draw) -> Result<Vec<Pair>> {
        let mut pairs: Vec<Pair> = Vec::with_capacity(self.options.needles);
        for _ in 0..self.options.needles {
            let free = |key: &Vec<u8>| {
                !pairs.iter().any(|pair| pair.key == *key)
                    && !self.needle.contains(key)
                    && !self.query.contains(key)
                    && Finder::new(key).find(text).is_none()
            };
            let key = (0..ATTEMPTS)
                .map(|_| draw.characters(&self.options.key_alphabet, self.options.key_len))
                .find(free)
                .ok_or_else(|| {
                    Error::input(format!(
                        "{ATTEMPTS} keys of {} characters were drawn, and each is taken or occurs in the {} bytes of text; raise \
                         key_len",
                        self.options.key_len,
                        text.len()
                    ))
                })?;
            let value = draw.characters(&self.options.value_alphabet, self.options.value_len);
            pairs.push(Pair { key, value });
        }
        Ok(pairs)
    }

    /// Draws the number of text bytes before each pair. The first pair is the pair of the last
    /// query and is placed at `depth`, if given.
    fn places(&self, room: usize, depth: Option<f64>, draw: &mut Draw) -> Vec<usize> {
        let steps = room / self.options.align;
        let mut places: Vec<usize> = (0..self.options.needles)
            .map(|_| draw.below(steps as u64 + 1) as usize * self.options.align)
            .collect();
        if let (Some(depth), Some(first)) = (depth, places.first_mut()) {
            // exact below 2^53 bytes
            *first = (room as f64 * depth) as usize / self.options.align * self.options.align;
        }
        places
    }

    /// Draws the pairs of the queries, in order: distinct pairs, the first pair last.
    fn order(&self, draw: &mut Draw) -> Vec<usize> {
        let mut others: Vec<usize> = (1..self.options.needles).collect();
        let mut order = Vec::with_capacity(self.options.queries);
        for _ in 1..self.options.queries {
            order.push(others.swap_remove(draw.below(others.len() as u64) as usize));
        }
        order.push(0);
        order
    }

    /// Inserts the pairs into the text and appends the queries in order.
    fn assemble(&self, text: &[u8], pairs: &[Pair], places: &[usize], order: &[usize]) -> Hidden {
        let mut sorted: Vec<usize> = (0..pairs.len()).collect();
        sorted.sort_by_key(|pair| places[*pair]);
        let mut bytes = Vec::with_capacity(text.len() + self.fixed_len());
        let mut needles = Vec::with_capacity(pairs.len());
        let mut read = 0;
        for pair in &sorted {
            bytes.extend_from_slice(&text[read..places[*pair]]);
            read = places[*pair];
            let begin = bytes.len();
            self.needle.write(&pairs[*pair].key, &pairs[*pair].value, &mut bytes);
            needles.push(begin..bytes.len());
        }
        bytes.extend_from_slice(&text[read..]);
        let mut answers = Vec::with_capacity(order.len());
        for pair in order {
            let begin = self.query.write(&pairs[*pair].key, &pairs[*pair].value, &mut bytes);
            answers.push(begin..begin + self.options.value_len);
        }
        let asked = order
            .iter()
            .filter_map(|pair| sorted.iter().position(|sorted| sorted == pair));
        Hidden {
            bytes,
            needles,
            asked: asked.collect(),
            answers,
        }
    }
}

/// Random choices.
struct Draw(Pcg64Mcg);

impl Draw {
    fn new(seed: &[u64], attempt: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(key(&[seed, &[attempt]].concat())))
    }

    /// Draws a number below `count`, which is at least 1. The error of each probability is below
    /// 2^−64.
    fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(count)) >> 64) as u64
    }

    fn characters(&mut self, alphabet: &str, len: usize) -> Vec<u8> {
        let alphabet = alphabet.as_bytes();
        (0..len)
            .map(|_| alphabet[self.below(alphabet.len() as u64) as usize])
            .collect()
    }
}
