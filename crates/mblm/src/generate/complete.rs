//! Completions of a prompt: samples, delivered piece by piece.
//!
//! ```
//! use std::sync::Arc;
//!
//! use mblm::config::Preset;
//! use mblm::generate::{Generator, SamplingParams, StopRules, complete};
//! use mblm::blocks::BlockRegistry;
//! use mblm::model::{Model, Seeded};
//!
//! # fn main() -> mblm::Result<()> {
//! let architecture = Preset::Tiny.experiment("".as_ref(), "".as_ref()).params.architecture;
//! let device = mblm::candle::Device::Cpu;
//! let model = Model::new(&architecture, &BlockRegistry::default(), &Seeded(0), &device)?;
//! let generator = Generator::new(model.decoder("a completion")?.clone())?;
//! for piece in complete(&generator, b"Once upon", &SamplingParams::new(5), &StopRules::default())? {
//!     print!("{}", piece?.text());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One sample is generated id by id, several in turns (see `side_by_side.rs`). A stop text is
//! recognized only once complete, so the model may have read past the delivered output;
//! [`Completion::into_cursor`] returns the position right after that output.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cursor::Cursor;
use super::draft::{Draft, End, Rules};
use super::generator::Generator;
use super::sample::Sampling;
use super::side_by_side::SideBySide;
use super::single::Single;
use super::stop::StopRules;
use super::token_set::TokenSet;
use super::window::{Sliding, Window};
use crate::bytes::{ByteStream, Format, SpecialIds, ids_from_bytes};
use crate::{Error, Result};

/// The number of samples, and how they are generated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SamplingParams {
    /// How the next id is chosen, and the allowed ids; ids that end a sample are always allowed.
    pub sampling: Sampling,
    /// Whether samples are valid UTF-8 after the prompt, with no character cut.
    pub utf8: bool,
    /// Seed of the draws. A sample depends on the seed and its index, not on the number of samples.
    pub seed: u64,
    /// The number of samples.
    pub samples: usize,
    /// The index of the first sample, from 0.
    pub first_sample: u64,
    /// The most ids of a sample.
    pub max_bytes: usize,
    /// The form of [`Piece::bytes`].
    pub format: Format,
    /// Whether the first pieces are the prompt.
    pub echo: bool,
    /// The handling of text longer than the model's context.
    pub window: Window,
    /// Set to end all samples.
    pub interrupt: Option<Arc<AtomicBool>>,
    /// Called with the number of prompt bytes read so far.
    pub on_prompt: Option<OnPrompt>,
}

/// A callback that receives the number of prompt bytes read so far.
#[derive(Clone)]
pub struct OnPrompt(pub Arc<dyn Fn(usize) + Send + Sync>);

impl fmt::Debug for OnPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnPrompt")
    }
}

impl SamplingParams {
    /// One valid UTF-8 sample of at most `max_bytes` bytes, from the model's distribution, seed 0.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            sampling: Sampling {
                allowed: TokenSet::bytes(),
                ..Sampling::default()
            },
            utf8: false,
            seed: 0,
            samples: 1,
            first_sample: 0,
            max_bytes,
            format: Format::Utf8,
            echo: false,
            window: Window::Whole,
            interrupt: None,
            on_prompt: None,
        }
    }
}

/// The starting point of completions.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The model's position; `None` is before the first byte.
    pub cursor: Option<Cursor>,
    /// The last ids read at the cursor that repetition penalty and UTF-8 have to consider.
    pub known: Vec<u32>,
    /// Ids to read before generation.
    pub prompt: Vec<u32>,
}

/// New output of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// The sample's index, from 0.
    pub sample: usize,
    /// The generated ids; empty for the prompt.
    pub ids: Vec<u32>,
    /// The output bytes. With [`Format::Utf8`] each piece is valid by itself: a character comes
    /// with its last byte, and U+FFFD replaces undecodable bytes. Ids above 255 are omitted.
    pub bytes: Vec<u8>,
    /// Why the sample ended, with its last piece.
    pub end: Option<End>,
}

impl Piece {
    /// The output bytes as text.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// Completes a prompt.
///
/// # Errors
/// Options out of range, an empty stop text, a stop id outside the vocabulary.
pub fn complete<'g>(
    generator: &'g Generator,
    prompt: &[u8],
    params: &SamplingParams,
    stop: &StopRules,
) -> Result<Completion<'g>> {
    let start = Start {
        prompt: ids_from_bytes(prompt),
        ..Start::default()
    };
    Completion::new(generator, start, params, stop)
}

/// An iterator over the pieces of running samples; ends after an error or the last sample.
pub struct Completion<'g> {
    generator: &'g Generator,
    /// The position after the prompt; for one sample, after its output, except for `Single::since`.
    cursor: Cursor,
    prompt: Vec<u32>,
    samples: Samples,
    /// Converts each sample's ids to bytes; `None` once the sample has ended.
    writers: Vec<Option<ByteStream<Vec<u8>>>>,
    ready: VecDeque<Piece>,
    /// The ids that every sample may still generate.
    remaining: usize,
    echo: bool,
    sliding: Option<Sliding>,
    prompt_is_read: bool,
    interrupt: Option<Arc<AtomicBool>>,
    on_prompt: Option<OnPrompt>,
}

enum Samples {
    /// The prompt has not been read.
    Begun(Vec<Draft>),
    One(Box<Single>),
    Several(SideBySide),
    Done,
}

impl<'g> Completion<'g> {
    /// Creates samples that continue from `start`.
    ///
    /// # Errors
    /// Those of [`complete`].
    pub fn new(generator: &'g Generator, start: Start, params: &SamplingParams, stop: &StopRules) -> Result<Self> {
        let vocabulary = generator.model().config().num_tokens;
        if let Some(id) = stop.ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::input(format!(
                "stop id {id}: the model has {vocabulary} ids; give one from 0 to {}",
                vocabulary - 1
            )));
        }
        let mut sampling = params.sampling.clone();
        sampling.allowed = sampling.allowed.union(&stop.ids.iter().copied().collect());
        let rules = Arc::new(Rules {
            sampling,
            utf8: params.utf8,
            stop: stop.clone(),
        });
        let config = generator.model().config();
        let cursor = match start.cursor {
            Some(cursor) => cursor,
            None => Cursor::begin(generator)?,
        };
        if params.window == Window::Slide && params.samples > 1 {
            let found = params.samples;
            return Err(Error::input(format!(
                "a sliding window generates one sample at a time, found {found}; generate the samples one after another"
            )));
        }
        let prompt = params
            .window
            .of_prompt(config, cursor.position(), &start.prompt, params.max_bytes)?;
        let before = [&*start.known, prompt].concat();
        let drafts = (0..params.samples as u64)
            .map(|index| {
                Draft::new(
                    rules.clone(),
                    params.seed,
                    params.first_sample.wrapping_add(index),
                    &before,
                )
            })
            .collect::<Result<Vec<_>>>()?;
        let writer = || ByteStream::new(Vec::new(), params.format, SpecialIds::Skip);
        Ok(Self {
            generator,
            cursor,
            prompt: prompt.to_vec(),
            prompt_is_read: false,
            sliding: (params.window == Window::Slide).then(|| Sliding::new(config, &before)),
            writers: drafts.iter().map(|_| Some(writer())).collect(),
            samples: Samples::Begun(drafts),
            ready: VecDeque::new(),
            remaining: params.max_bytes,
            echo: params.echo,
            interrupt: params.interrupt.clone(),
            on_prompt: params.on_prompt.clone(),
        })
    }

    /// Returns the position right after the delivered output of a single sample, which may take a
    /// few steps; with several samples, the position after the prompt.
    ///
    /// # Errors
    /// The model cannot read the prompt, or a failing device.
    pub fn into_cursor(mut self) -> Result<Cursor> {
        self.read_prompt()?;
        match self.samples {
            Samples::One(single) => single.into_cursor(self.generator, self.cursor, self.sliding.as_ref()),
            _ => Ok(self.cursor),
        }
    }

    /// Whether the whole prompt has been read.
    pub fn has_read_prompt(&self) -> bool {
        self.prompt_is_read
    }

    /// Fills `ready` with at least one piece, unless all samples have ended.
    fn advance(&mut self) -> Result<()> {
        while self.ready.is_empty() {
            match &self.samples {
                Samples::Done => return Ok(()),
                Samples::Begun(_) if std::mem::take(&mut self.echo) => self.echo_prompt()?,
                Samples::Begun(_) => self.read_prompt()?,
                Samples::One(_) => self.advance_one()?,
                Samples::Several(_) => self.advance_several()?,
            }
        }
        Ok(())
    }

    fn echo_prompt(&mut self) -> Result<()> {
        for (sample, writer) in self.writers.iter_mut().enumerate() {
            let Some(writer) = writer else { continue };
            writer.write_ids(&self.prompt).map_err(in_memory)?;
            self.ready.push_back(Piece {
                sample,
                ids: Vec::new(),
                bytes: writer.take(),
                end: None,
            });
        }
        Ok(())
    }

    fn read_prompt(&mut self) -> Result<()> {
        let drafts = match std::mem::replace(&mut self.samples, Samples::Done) {
            Samples::Begun(drafts) => drafts,
            other => {
                self.samples = other;
                return Ok(());
            }
        };
        let mut drafts = drafts;
        let read = self.read_watched()?;
        self.prompt_is_read = read.is_continue();
        if read.is_break() || self.remaining == 0 {
            let end = if read.is_break() { End::Interrupted } else { End::Length };
            for (sample, draft) in drafts.iter_mut().enumerate() {
                draft.end_early(end);
                self.hand_over(sample, Vec::new(), draft.end())?;
            }
            return Ok(());
        }
        self.samples = match drafts.len() {
            0 => Samples::Done,
            1 => Samples::One(Box::new(Single::new(drafts.remove(0)))),
            _ => Samples::Several(SideBySide::new(&self.cursor, drafts)?),
        };
        Ok(())
    }

    /// Reads the prompt, or its end if a window slides; `Break` on an interrupt.
    fn read_watched(&mut self) -> Result<ControlFlow<()>> {
        let (interrupt, on_prompt) = (self.interrupt.as_ref(), self.on_prompt.as_ref());
        let mut watch = |read: usize| {
            if let Some(OnPrompt(tell)) = on_prompt {
                tell(read);
            }
            match is_set(interrupt) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        match &self.sliding {
            Some(sliding) if sliding.is_full(&self.cursor, self.prompt.len()) => {
                let (cursor, rest) = sliding.slide(self.generator)?;
                self.cursor = cursor;
                self.cursor.read_watched(self.generator, rest, &mut watch)
            }
            _ => self.cursor.read_watched(self.generator, &self.prompt, &mut watch),
        }
    }

    /// Generates one id of a single sample.
    fn advance_one(&mut self) -> Result<()> {
        let interrupt = self.interrupt.clone();
        let Samples::One(single) = &mut self.samples else {
            return Ok(());
        };
        if single.draft.end().is_some() {
            // keep the sample: `into_cursor` may need it
            return Ok(());
        }
        single.read_last(self.generator, &mut self.cursor, self.sliding.as_mut())?;
        if is_set(interrupt.as_ref()) {
            single.draft.end_early(End::Interrupted);
        } else {
            single.choose(&self.cursor, self.remaining)?;
            self.remaining -= 1;
        }
        let (ids, end) = (single.draft.released().to_vec(), single.draft.end());
        single.handed_over += ids.len();
        self.hand_over(0, ids, end)
    }

    /// Generates one turn of all samples.
    fn advance_several(&mut self) -> Result<()> {
        let interrupted = is_set(self.interrupt.as_ref());
        let Samples::Several(all) = &mut self.samples else {
            return Ok(());
        };
        if !interrupted {
            self.remaining -= all.go_on(self.generator, self.remaining)?;
        }
        let mut written = Vec::new();
        for stream in all.streams() {
            if interrupted {
                stream.draft.end_early(End::Interrupted);
                stream.written.extend_from_slice(stream.draft.released());
            }
            written.push((std::mem::take(&mut stream.written), stream.draft.end()));
        }
        if written.iter().all(|(_, end)| end.is_some()) {
            self.samples = Samples::Done;
        }
        for (sample, (ids, end)) in written.into_iter().enumerate() {
            self.hand_over(sample, ids, end)?;
        }
        Ok(())
    }

    /// Queues a piece with a sample's next ids, if there is anything new.
    fn hand_over(&mut self, sample: usize, ids: Vec<u32>, end: Option<End>) -> Result<()> {
        let Some(writer) = &mut self.writers[sample] else {
            return Ok(()); // already ended
        };
        writer.write_ids(&ids).map_err(in_memory)?;
        let mut bytes = writer.take();
        if end.is_some()
            && let Some(writer) = self.writers[sample].take()
        {
            bytes.extend(writer.finish().map_err(in_memory)?);
        }
        if end.is_some() || !ids.is_empty() {
            self.ready.push_back(Piece {
                sample,
                ids,
                bytes,
                end,
            });
        }
        Ok(())
    }

    /// Whether all samples have ended and been delivered.
    fn is_done(&self) -> bool {
        self.writers.iter().all(Option::is_none)
    }
}

fn is_set(flag: Option<&Arc<AtomicBool>>) -> bool {
    flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Writing to memory does not fail.
fn in_memory(error: std::io::Error) -> Error {
    Error::input(error.to_string())
}

impl Iterator for Completion<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.ready.is_empty()
            && !self.is_done()
            && let Err(error) = self.advance()
        {
            self.writers.iter_mut().for_each(|writer| *writer = None);
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}
