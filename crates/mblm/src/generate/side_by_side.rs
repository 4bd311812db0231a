//! Samples that are generated together: streams in shards, which run in turns.
//!
//! Streams of a shard step together; an ended stream reads id 0 until all have ended. After each
//! turn, output is delivered and interrupts are checked, which limits the length of turns.

use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::cursor::{Cursor, row};
use super::draft::Draft;
use super::generator::{Generator, GeneratorState};
use super::shards::ShardThreads;
use crate::Result;

/// Ids per stream in the first turn.
const TURN: usize = 16;
/// The longest turn: short for an interrupt, long compared with the shards' wait for each other.
const TURN_TIME: Duration = Duration::from_millis(50);

/// All samples of a completion.
pub(super) struct SideBySide {
    shards: Vec<Shard>,
    threads: ShardThreads,
    /// Ids per stream in the next turn.
    turn: usize,
}

/// Streams that one thread runs.
struct Shard {
    state: GeneratorState,
    /// (b, V).
    logits: Tensor,
    streams: Vec<Stream>,
}

/// A sample, and its output since the last delivery.
pub(super) struct Stream {
    pub(super) draft: Draft,
    pub(super) written: Vec<u32>,
}

impl Shard {
    /// Generates up to `turn` ids of every stream; `remaining` may still come.
    fn go_on(&mut self, generator: &Generator, remaining: usize, turn: usize) -> Result<()> {
        for step in 0..turn {
            let mut ids = vec![0; self.streams.len()];
            for (index, stream) in self.streams.iter_mut().enumerate() {
                if stream.draft.end().is_none() {
                    ids[index] = stream.draft.choose(&row(&self.logits, index)?, remaining - step)?;
                    stream.written.extend_from_slice(stream.draft.released());
                }
            }
            if self.streams.iter().all(|stream| stream.draft.end().is_some()) {
                return Ok(());
            }
            self.logits = generator.step(&mut self.state, &ids)?;
        }
        Ok(())
    }
}

impl SideBySide {
    /// Creates samples that all continue from `cursor`.
    pub(super) fn new(cursor: &Cursor, drafts: Vec<Draft>) -> Result<Self> {
        let mut streams = drafts.into_iter().map(|draft| Stream {
            draft,
            written: Vec::new(),
        });
        let mut shards = Vec::new();
        for state in cursor.state().fork_shards(streams.len())? {
            let count = state.streams();
            shards.push(Shard {
                logits: cursor.logits().broadcast_as((count, cursor.logits().dim(1)?))?,
                state,
                streams: streams.by_ref().take(count).collect(),
            });
        }
        Ok(Self {
            threads: ShardThreads::new(shards.len())?,
            shards,
            turn: TURN,
        })
    }

    /// All samples in order.
    pub(super) fn streams(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.shards.iter_mut().flat_map(|shard| &mut shard.streams)
    }

    /// Runs a turn of at most `remaining` ids per stream and returns its length.
    pub(super) fn go_on(&mut self, generator: &Generator, remaining: usize) -> Result<usize> {
        let turn = self.turn.min(remaining);
        let begun = Instant::now();
        let results = self
            .threads
            .side_by_side(&mut self.shards, |shard| shard.go_on(generator, remaining, turn));
        results.into_iter().collect::<Result<()>>()?;
        self.turn = match begun.elapsed() {
            taken if taken > TURN_TIME => (turn / 2).max(1),
            taken if taken < TURN_TIME / 2 => turn.saturating_mul(2),
            _ => turn,
        };
        Ok(turn)
    }
}
