//! Samples, one stream each: from logits to what is written, until each has ended.
//!
//! What a stream writes depends on the place it goes on from, the rules, the seed and the stream's number alone. Streams step
//! together; one that has ended goes along with id 0 until all have. A stop text is known only when it is complete, so what
//! could become one is held back, and the model has read more than was written: [`extend`] leaves the place behind what was.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::Tensor;
use mblm::generate::{Generator, GeneratorState, Sampler, ShardThreads, StopReason, StopScanner, TokenSet, Utf8Only};
use serde_json::{Value, json};

use super::place::{Place, row};
use super::rules::Rules;

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has all its bytes.
    Length,
    /// By what the rules name.
    Stop(StopReason),
    /// By a signal.
    Interrupted,
}

/// One sample in the making.
pub(crate) struct Stream<'a> {
    rules: &'a Rules,
    sampler: Sampler,
    utf8: Option<Utf8Only>,
    scanner: StopScanner,
    /// What the last id has made known to be written.
    released: Vec<u32>,
    end: Option<End>,
}

impl<'a> Stream<'a> {
    /// The sample of this number, after `before`, as much of it as is known.
    pub(crate) fn new(rules: &'a Rules, seed: u64, number: u64, before: &[u32]) -> Result<Self> {
        let mut sampler = Sampler::new(rules.sampling.clone(), seed, number)?;
        sampler.observe(before);
        // the longest character has four bytes
        let last: Vec<u8> = before[before.len().saturating_sub(4)..]
            .iter()
            .filter_map(|id| u8::try_from(*id).ok())
            .collect();
        Ok(Self {
            rules,
            sampler,
            utf8: rules.utf8.then(|| Utf8Only::after(&last)),
            scanner: StopScanner::new(&rules.stop)?,
            released: Vec::new(),
            end: None,
        })
    }

    /// Why the sample ended; `None` while it goes on.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Chooses the next id from its logits (V); `remaining` bytes may still come, this one included. Afterwards
    /// [`released`](Self::released) is what there is to write.
    fn choose(&mut self, logits: &[f32], remaining: usize) -> Result<u32> {
        self.released.clear();
        let also = self.allowed(remaining);
        let id = self.sampler.next_among(logits, &also)?;
        match self.scanner.push(id, &mut self.released) {
            Some(reason) => {
                if self.rules.keep_stop {
                    match reason {
                        StopReason::String(index) => {
                            self.released
                                .extend(self.rules.stop.strings[index].iter().map(|byte| u32::from(*byte)));
                        }
                        StopReason::Id(id) => self.released.push(id),
                    }
                }
                self.end = Some(End::Stop(reason));
            }
            None => {
                if let (Some(utf8), Ok(byte)) = (&mut self.utf8, u8::try_from(id)) {
                    utf8.advance(byte)?;
                }
                if remaining == 1 {
                    self.finish(End::Length);
                }
            }
        }
        Ok(id)
    }

    /// The ids that may come next, of those that the sampler's options allow.
    fn allowed(&self, remaining: usize) -> TokenSet {
        let Some(utf8) = &self.utf8 else {
            return TokenSet::all();
        };
        // a stop id ends the text, so it may come between characters only
        let stop: TokenSet = self.rules.stop.ids.iter().copied().collect();
        let bytes = self.rules.sampling.allowed.intersection(&stop.complement());
        let allowed = utf8.allowed_among(&bytes, remaining);
        match utf8.is_complete() {
            true => allowed.union(&stop),
            false => allowed,
        }
    }

    /// Ends the sample for another reason than a stop: nothing is held back any more.
    fn finish(&mut self, end: End) {
        self.scanner.finish(&mut self.released);
        self.end = Some(end);
    }

    /// Ends the sample before it has all its bytes; what was held back is then to be written.
    fn interrupt(&mut self) {
        self.released.clear();
        if self.end.is_none() {
            self.finish(End::Interrupted);
        }
    }
}

/// Why a sample ended, for `--json`.
pub(crate) fn describe(end: Option<End>, rules: &Rules) -> (&'static str, Value) {
    match end {
        None | Some(End::Length) => ("length", Value::Null),
        Some(End::Interrupted) => ("interrupted", Value::Null),
        Some(End::Stop(StopReason::Id(id))) => ("stop_id", json!(id)),
        Some(End::Stop(StopReason::String(index))) => {
            ("stop", json!(String::from_utf8_lossy(&rules.stop.strings[index])))
        }
    }
}

/// Goes on from `place` with one stream for up to `max_bytes` ids while `more` says so, and hands over what there is to write.
///
/// With `keep`, `place` is then behind all that was written, for the price of a step; else it is somewhere before that.
pub(crate) fn extend(
    generator: &Generator<'_>,
    place: &mut Place,
    stream: &mut Stream<'_>,
    max_bytes: usize,
    keep: bool,
    more: &mut dyn FnMut() -> bool,
    write: &mut dyn FnMut(&[u32]) -> io::Result<()>,
) -> Result<()> {
    let mut ahead: Option<Place> = None; // where the model is, if it has read what is held back
    let mut since = Vec::new(); // ids that `place` is not behind yet
    let mut to_write = 0; // how many of them have been or will be written
    for remaining in (1..=max_bytes).rev() {
        if !more() {
            stream.interrupt();
            to_write += stream.released.len();
            write(&stream.released)?;
            break;
        }
        let now = ahead.as_ref().unwrap_or(&*place);
        let id = stream.choose(&now.next()?, remaining)?;
        since.push(id);
        to_write += stream.released.len();
        write(&stream.released)?;
        if stream.end.is_some() {
            break;
        }
        if stream.scanner.held() == 0 {
            if let Some(mut now) = ahead.take() {
                now.step(generator, id)?;
                *place = now;
            } else {
                place.step(generator, id)?;
            }
            since.clear();
            to_write = 0;
        } else {
            ahead.get_or_insert_with(|| place.clone()).step(generator, id)?;
        }
    }
    if keep {
        for id in since.into_iter().take(to_write) {
            place.step(generator, id)?;
        }
    }
    Ok(())
}

/// Ids that shards go on by, at first, before they meet and hear whether there are more.
const TURN: usize = 16;
/// How long a turn may take, so that an interrupt is heard at once; the shards' waiting for one another is little beside it.
const TURN_TIME: Duration = Duration::from_millis(50);

/// Streams that one thread takes through their steps.
struct Shard<'s, 'a> {
    state: GeneratorState,
    /// (b, V).
    logits: Tensor,
    streams: &'s mut [Stream<'a>],
    /// What each stream has written in this turn.
    written: Vec<Vec<u32>>,
}

impl Shard<'_, '_> {
    /// Up to `turn` ids of every stream, of `remaining`.
    fn go_on(&mut self, generator: &Generator<'_>, remaining: usize, turn: usize) -> Result<()> {
        for step in 0..turn {
            let mut ids = vec![0; self.streams.len()];
            for (index, stream) in self.streams.iter_mut().enumerate() {
                if stream.end.is_none() {
                    ids[index] = stream.choose(&row(&self.logits, index)?, remaining - step)?;
                    self.written[index].extend_from_slice(&stream.released);
                }
            }
            if self.streams.iter().all(|stream| stream.end.is_some()) {
                return Ok(());
            }
            self.logits = generator.step(&mut self.state, &ids)?;
        }
        Ok(())
    }
}

/// Goes on from `place` with several streams, as [`extend`] does with one, in shards; `write` also hears which stream it is.
pub(crate) fn extend_all(
    generator: &Generator<'_>,
    place: &Place,
    streams: &mut [Stream<'_>],
    max_bytes: usize,
    more: &mut dyn FnMut() -> bool,
    write: &mut dyn FnMut(usize, &[u32]),
) -> Result<()> {
    let mut rest = streams;
    let mut shards = Vec::new();
    for state in place.state.fork_shards(rest.len())? {
        let (streams, others) = rest.split_at_mut(state.streams());
        rest = others;
        shards.push(Shard {
            logits: place.logits.broadcast_as((streams.len(), place.logits.dim(1)?))?,
            written: vec![Vec::new(); streams.len()],
            state,
            streams,
        });
    }
    let threads = ShardThreads::new(shards.len())?;
    let (mut remaining, mut next) = (max_bytes, TURN);
    while remaining > 0
        && shards
            .iter()
            .flat_map(|shard| &*shard.streams)
            .any(|stream| stream.end.is_none())
    {
        let turn = next.min(remaining);
        let goes_on = more();
        if goes_on {
            let begun = Instant::now();
            let results = threads.side_by_side(&mut shards, |shard| shard.go_on(generator, remaining, turn));
            results.into_iter().collect::<Result<()>>()?;
            next = match begun.elapsed() {
                taken if taken > TURN_TIME => (turn / 2).max(1),
                taken if taken < TURN_TIME / 2 => turn.saturating_mul(2),
                _ => turn,
            };
        }
        let mut index = 0;
        for shard in &mut shards {
            for (stream, written) in shard.streams.iter_mut().zip(&mut shard.written) {
                if !goes_on {
                    stream.interrupt();
                    written.extend_from_slice(&stream.released);
                }
                write(index, written);
                written.clear();
                index += 1;
            }
        }
        remaining -= turn;
    }
    Ok(())
}
