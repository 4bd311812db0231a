//! Samples that are generated together: streams in shards, which go on by turns.
//!
//! Streams of a shard step together; one that has ended goes along with id 0 until all have. After a turn the shards meet: what
//! was written is handed over, and an interrupt is heard. Turns are as long as they can be without being slow to hear one.

use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::cursor::{Cursor, row};
use super::draft::Draft;
use super::generator::{Generator, GeneratorState};
use super::shards::ShardThreads;
use crate::Result;

/// Ids that shards go on by, at first, before they meet and hear whether there are more.
const TURN: usize = 16;
/// How long a turn may take, so that an interrupt is heard at once; the shards' waiting for one another is little beside it.
const TURN_TIME: Duration = Duration::from_millis(50);

/// All samples of a completion.
pub(super) struct SideBySide {
    shards: Vec<Shard>,
    threads: ShardThreads,
    /// Ids of the next turn.
    turn: usize,
}

/// Streams that one thread takes through their steps.
struct Shard {
    state: GeneratorState,
    /// (b, V).
    logits: Tensor,
    streams: Vec<Stream>,
}

/// A sample, and what it has written since it was last asked.
pub(super) struct Stream {
    pub(super) draft: Draft,
    pub(super) written: Vec<u32>,
}

impl Shard {
    /// Up to `turn` ids of every stream, of `remaining`.
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
    /// Samples that all go on from `cursor`.
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

    /// Goes on by a turn of at most `remaining` ids; how many these were.
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
