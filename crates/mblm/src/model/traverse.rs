//! The walk through the hierarchy: the grouping of sequences, their order, and the row numbers.
//!
//! ```text
//! samples ──▶ groups of samples, or one sample in chunks of positions
//! a group of sequences of stage n: forward ──▶ its rows; each feeds one sequence of stage n + 1
//!         ──▶ groups of those sequences in turn, each with everything below it (or in shards)
//!         ──▶ the group's backward pass
//! rows of the local stage: logits, loss
//! ```
//!
//! Sequences of a stage are independent given the outputs of the stage above, so the walk goes
//! **depth first**: a group's backward data is freed before the next group begins. Sequence s of a
//! stage has the rows from s · P_n on, and row r of stage n feeds sequence r of stage n + 1.
//!
//! A [`Visitor`] does the computation; a [`Look`] is a visitor without backward passes:
//!
//! | visitor | specifics |
//! |---|---|
//! | evaluation of a decoder | keeps nothing; passes rows to a function; long first stages in chunks, forward only |
//! | training of a decoder | skips groups without a prediction that counts; start rows; shards; chunks, forward and in reverse |
//! | evaluation of an encoder | outputs feed the next stage directly, without start rows; masks |
//! | training of an encoder | the same, with gradients |

use std::ops::Range;

use candle_core::{Device, Tensor};
use mblm_ops::device::rows_at_once;

use super::pass::Chunking;
use super::shards::Shards;
use crate::Result;
use crate::config::ModelConfig;

/// The most sequences of `positions` positions in a group: as many rows as the device computes at
/// once, which bounds the memory of everything below the first stage.
pub(crate) fn group_size(positions: usize, device: &Device) -> usize {
    sequences_in(rows_at_once(!device.is_cpu()), positions)
}

/// The number of sequences of `positions` positions in a group of `rows` rows.
pub(crate) fn sequences_in(rows: usize, positions: usize) -> usize {
    (rows / positions.max(1)).max(1)
}

/// The size of even groups of `total` sequences: as few groups of at most `most` as possible.
pub(crate) fn even_groups(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most.max(1)).max(1)).max(1)
}

/// One stage as the walk sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    /// Positions of a sequence.
    pub(super) positions: usize,
    /// Bytes of a position.
    pub(super) bytes: usize,
    /// The most sequences of a group.
    pub(super) group: usize,
}

/// The stages and shards of a walk.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// The stages, the most global first.
    pub(super) levels: Vec<Level>,
    pub(super) shards: Shards,
}

/// Sequences of a stage that are computed together, whole; or a chunk of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) stage: usize,
    /// The index of the first sequence in the stage.
    pub(super) first: usize,
    /// The number of sequences.
    pub(super) count: usize,
    /// The first position; 0 unless this is a chunk.
    pub(super) from: usize,
    /// Positions.
    pub(super) positions: usize,
    /// The number of the first row in the stage.
    pub(super) row: usize,
}

impl Group {
    pub(super) fn rows(&self) -> usize {
        self.count * self.positions
    }
}

/// The computation at each point of a walk.
pub(super) trait Visitor: Sync {
    /// The outputs of a group's forward pass.
    type Outputs;
    /// The data that a group's backward pass needs.
    type Kept;
    /// The gradients of a group's outputs.
    type OutputGradients;
    /// The gradient of rows that feed the next stage, or of contexts.
    type Gradient: Send;
    /// The sums over the groups; each shard has its own.
    type Sums<'s>;

    /// A group's forward pass, with contexts (n, P, D) after the first stage; `None` skips the
    /// group.
    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Option<(Self::Outputs, Self::Kept)>>;

    /// The rows (n · t, D) that feed the next stage.
    fn feed(&self, group: &Group, outputs: &Self::Outputs) -> Result<Tensor>;

    /// The contexts (m, P, D) of the next stage's sequences, from rows (m, D) that feed it.
    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor>;

    /// Handles the outputs of a group of the local stage.
    fn local(&self, group: &Group, outputs: &Self::Outputs, sums: &mut Self::Sums<'_>)
    -> Result<Self::OutputGradients>;

    /// Returns the gradient of feed rows from their contexts' gradient; zeros if skipped.
    fn contexts_backward(
        &self,
        stage: usize,
        feed: &Tensor,
        d_contexts: Option<Self::Gradient>,
        sums: &mut Self::Sums<'_>,
    ) -> Result<Self::Gradient>;

    /// The gradients of a group's outputs, from the parts of its feed's gradient in order.
    fn feed_backward(&self, group: &Group, pieces: Vec<Self::Gradient>) -> Result<Self::OutputGradients>;

    /// Runs a group's backward pass and returns the gradient of its contexts.
    fn backward(
        &self,
        group: &Group,
        kept: Self::Kept,
        gradients: Self::OutputGradients,
        sums: &mut Self::Sums<'_>,
    ) -> Result<Self::Gradient>;

    /// Calls `work(shard, sums)` for each shard with its own sums, adds them to `sums`, and returns
    /// the results in order.
    fn side_by_side<R: Send>(
        &self,
        shards: usize,
        sums: &mut Self::Sums<'_>,
        work: impl Fn(usize, &mut Self::Sums<'_>) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        (0..shards).map(|shard| work(shard, sums)).collect()
    }
}

/// A [`Visitor`] without backward passes.
pub(super) trait Look: Sync {
    /// As [`Visitor::Outputs`].
    type Outputs;
    /// Receives the rows of the local stage.
    type Sums<'s>;

    /// As [`Visitor::forward`].
    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Self::Outputs>;

    /// As [`Visitor::feed`].
    fn feed(&self, group: &Group, outputs: &Self::Outputs) -> Result<Tensor>;

    /// As [`Visitor::contexts`].
    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor>;

    /// As [`Visitor::local`].
    fn local(&self, group: &Group, outputs: &Self::Outputs, sums: &mut Self::Sums<'_>) -> Result<()>;
}

impl<L: Look> Visitor for L {
    type Outputs = L::Outputs;
    type Kept = ();
    type OutputGradients = ();
    type Gradient = ();
    type Sums<'s> = L::Sums<'s>;

    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Option<(L::Outputs, ())>> {
        Ok(Some((Look::forward(self, group, context)?, ())))
    }

    fn feed(&self, group: &Group, outputs: &L::Outputs) -> Result<Tensor> {
        Look::feed(self, group, outputs)
    }

    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor> {
        Look::contexts(self, stage, feed)
    }

    fn local(&self, group: &Group, outputs: &L::Outputs, sums: &mut L::Sums<'_>) -> Result<()> {
        Look::local(self, group, outputs, sums)
    }

    fn contexts_backward(&self, _: usize, _: &Tensor, _: Option<()>, _: &mut L::Sums<'_>) -> Result<()> {
        Ok(())
    }

    fn feed_backward(&self, _: &Group, _: Vec<()>) -> Result<()> {
        Ok(())
    }

    fn backward(&self, _: &Group, (): (), (): (), _: &mut L::Sums<'_>) -> Result<()> {
        Ok(())
    }
}

impl Walk {
    /// A walk for evaluation: groups of as many rows as the device computes at full speed.
    ///
    /// `first`: positions of a sample's first stage.
    pub(super) fn looking(config: &ModelConfig, first: usize, device: &Device) -> Self {
        Self::with_groups(config, first, |positions, _| group_size(positions, device))
    }

    /// A walk for training; `first` as in [`looking`](Self::looking). `train_checkpoint_chunks`
    /// sets the group sizes of the lower stages, otherwise `chunking`.
    pub(super) fn training(
        config: &ModelConfig,
        first: usize,
        samples: usize,
        chunking: Chunking,
        device: &Device,
    ) -> Self {
        let bytes = samples * first * config.patch_bytes(0);
        Self::with_groups(config, first, |positions, stage| {
            match &config.train_checkpoint_chunks {
                Some(chunks) if stage > 0 => {
                    let sequences = bytes / (positions * config.patch_bytes(stage)).max(1);
                    sequences.div_ceil(chunks[stage - 1]).max(1)
                }
                _ => sequences_in(chunking.rows_on(device, config.hidden_dims[stage]), positions),
            }
        })
    }

    fn with_groups(config: &ModelConfig, first: usize, group: impl Fn(usize, usize) -> usize) -> Self {
        let level = |stage: usize| {
            let positions = if stage == 0 { first } else { config.seq_lens[stage] };
            Level {
                positions,
                bytes: config.patch_bytes(stage),
                group: group(positions, stage),
            }
        };
        Self {
            levels: (0..config.num_stages()).map(level).collect(),
            shards: Shards::NONE,
        }
    }

    /// The byte range of a group within all samples, padding included.
    pub(super) fn bytes_of(&self, group: &Group) -> Range<usize> {
        let bytes = self.levels[group.stage].bytes;
        group.row * bytes..(group.row + group.rows()) * bytes
    }

    /// Groups of whole sequences of a stage, even in size.
    pub(super) fn groups(&self, stage: usize, sequences: Range<usize>) -> impl Iterator<Item = Group> + use<> {
        let Level { positions, group, .. } = self.levels[stage];
        let size = even_groups(sequences.len(), group);
        sequences.clone().step_by(size).map(move |first| Group {
            stage,
            first,
            count: size.min(sequences.end - first),
            from: 0,
            positions,
            row: first * positions,
        })
    }

    /// Chunks of `chunk` positions of a sample's first stage, in order.
    pub(super) fn chunks(&self, sample: usize, chunk: usize) -> impl DoubleEndedIterator<Item = Group> + use<> {
        let positions = self.levels[0].positions;
        (0..positions.div_ceil(chunk)).map(move |index| Group {
            stage: 0,
            first: sample,
            count: 1,
            from: index * chunk,
            positions: chunk.min(positions - index * chunk),
            row: sample * positions + index * chunk,
        })
    }

    /// A sample's whole first stage.
    pub(super) fn sample(&self, sample: usize) -> Group {
        let positions = self.levels[0].positions;
        Group {
            stage: 0,
            first: sample,
            count: 1,
            from: 0,
            positions,
            row: sample * positions,
        }
    }

    /// All sequences of a stage as one group.
    pub(super) fn whole(&self, stage: usize, sequences: usize) -> Group {
        Group {
            stage,
            first: 0,
            count: sequences,
            from: 0,
            positions: self.levels[stage].positions,
            row: 0,
        }
    }

    /// Walks all samples, in groups; in shards of samples, if there are any.
    pub(super) fn all_samples<V: Visitor>(&self, visitor: &V, batch: usize, sums: &mut V::Sums<'_>) -> Result<()> {
        let shards = self.shards.samples;
        let of_shard = batch / shards; // shards of samples divide the batch
        visitor.side_by_side(shards, sums, |shard, sums| {
            for group in self.groups(0, shard * of_shard..(shard + 1) * of_shard) {
                self.group(visitor, &group, None, sums)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Walks a group and everything below it: the gradient of its contexts, `None` if skipped.
    pub(super) fn group<V: Visitor>(
        &self,
        visitor: &V,
        group: &Group,
        context: Option<Tensor>,
        sums: &mut V::Sums<'_>,
    ) -> Result<Option<V::Gradient>> {
        let Some((outputs, kept)) = visitor.forward(group, context)? else {
            return Ok(None);
        };
        let below = self.below(visitor, group, &outputs, sums)?;
        drop(outputs);
        match below {
            Some(gradients) => visitor.backward(group, kept, gradients, sums).map(Some),
            None => Ok(None),
        }
    }

    /// Walks everything below a group: the gradients of its outputs, `None` if all was skipped.
    pub(super) fn below<V: Visitor>(
        &self,
        visitor: &V,
        group: &Group,
        outputs: &V::Outputs,
        sums: &mut V::Sums<'_>,
    ) -> Result<Option<V::OutputGradients>> {
        let Some(next) = self.levels.get(group.stage + 1) else {
            return visitor.local(group, outputs, sums).map(Some);
        };
        let feed = visitor.feed(group, outputs)?; // (rows, D)
        let all = group.rows();
        let shards = match group.stage {
            0 => self.shards.of_sequences(all * next.positions * next.bytes).min(all),
            _ => 1,
        };
        let fed = visitor.side_by_side(shards, sums, |shard, sums| {
            let rows = shard * all / shards..(shard + 1) * all / shards;
            self.sequences(visitor, group, &feed, rows, sums)
        })?;
        if fed.iter().all(|fed| !fed.counts) {
            return Ok(None);
        }
        let pieces = fed.into_iter().flat_map(|fed| fed.pieces).collect();
        visitor.feed_backward(group, pieces).map(Some)
    }

    /// Walks the sequences of the next stage that `rows` of a group's feed give, in groups.
    fn sequences<V: Visitor>(
        &self,
        visitor: &V,
        above: &Group,
        feed: &Tensor,
        rows: Range<usize>,
        sums: &mut V::Sums<'_>,
    ) -> Result<Fed<V::Gradient>> {
        let mut fed = Fed {
            pieces: Vec::new(),
            counts: false,
        };
        for group in self.groups(above.stage + 1, above.row + rows.start..above.row + rows.end) {
            let feed = feed.narrow(0, group.first - above.row, group.count)?;
            let context = visitor.contexts(above.stage, &feed)?;
            let d_context = self.group(visitor, &group, Some(context), sums)?;
            fed.counts |= d_context.is_some();
            let piece = visitor.contexts_backward(above.stage, &feed, d_context, sums)?;
            fed.pieces.push(piece);
        }
        Ok(fed)
    }
}

/// The gradients of rows that feed sequences.
struct Fed<G> {
    pieces: Vec<G>,
    /// Whether any group was not skipped.
    counts: bool,
}
