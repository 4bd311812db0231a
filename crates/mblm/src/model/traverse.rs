//! The walk through the hierarchy: which sequences are computed together, in which order, and which number each row has.
//!
//! ```text
//! samples ──▶ groups of samples, or one sample in chunks of positions
//! a group of sequences of stage n: forward ──▶ its rows, each of which feeds one sequence of stage n + 1
//!         ──▶ groups of those sequences, one after the other, each with everything below it (or in shards, side by side)
//!         ──▶ the group again, on the way back
//! rows of the local stage: logits, loss
//! ```
//!
//! Sequences of a stage are independent given the outputs of the stage above, so the walk goes **depth first**: what a group keeps
//! for the way back is freed before the next group begins. Sequence s of a stage has the rows s · P_n and on of that stage, and row
//! r of stage n feeds sequence r of stage n + 1.
//!
//! What is computed is a [`Visitor`]'s. A visitor that only looks, [`Look`], has no way back. There are four of them:
//!
//! | visitor | differs in |
//! |---|---|
//! | evaluation of a decoder | nothing is kept; rows go to a function; a long first stage goes in chunks, forward only |
//! | training of a decoder | groups without a prediction that counts are left out; start rows; shards; chunks forward and in reverse |
//! | evaluation of an encoder | outputs feed the next stage as they are, without start rows; masks |
//! | training of an encoder | the same, and gradients |

use std::ops::Range;

use candle_core::{Device, Tensor};
use mblm_ops::device::rows_at_once;

use super::pass::Chunking;
use super::shards::Shards;
use crate::Result;
use crate::config::ModelConfig;

/// How many sequences of `positions` each make one group at most: as many rows as the device computes at once, which bounds the
/// memory of everything below the first stage.
pub(crate) fn group_size(positions: usize, device: &Device) -> usize {
    sequences_in(rows_at_once(!device.is_cpu()), positions)
}

/// How many sequences of `positions` a group of `rows` rows has.
pub(crate) fn sequences_in(rows: usize, positions: usize) -> usize {
    (rows / positions.max(1)).max(1)
}

/// The size of each group of `total` sequences in as few groups of at most `most` as there can be, all of about one size.
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
    /// Sequences of a group, at most.
    pub(super) group: usize,
}

/// The way through a hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// The stages, the most global first.
    pub(super) levels: Vec<Level>,
    pub(super) shards: Shards,
}

/// Some sequences of a stage that are computed together, whole or, one alone, a chunk of its positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) stage: usize,
    /// The first sequence, among all of the stage.
    pub(super) first: usize,
    /// Sequences.
    pub(super) count: usize,
    /// The first position, 0 but for chunks.
    pub(super) from: usize,
    /// Positions.
    pub(super) positions: usize,
    /// The number of the first row, among all of the stage.
    pub(super) row: usize,
}

impl Group {
    /// Rows.
    pub(super) fn rows(&self) -> usize {
        self.count * self.positions
    }
}

/// What is computed at each place of a walk.
pub(super) trait Visitor: Sync {
    /// What a group's forward pass gives.
    type Outputs;
    /// What a group keeps for its way back.
    type Kept;
    /// The gradients of a group's outputs.
    type OutputGradients;
    /// The gradient of rows that feed the next stage, or of contexts.
    type Gradient: Send;
    /// What the groups add up; each shard has its own.
    type Sums<'s>;

    /// A group's forward pass, with contexts (n, P, D) for all stages but the first; `None` to leave the group out.
    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Option<(Self::Outputs, Self::Kept)>>;

    /// The rows (n · t, D) that feed the next stage.
    fn feed(&self, group: &Group, outputs: &Self::Outputs) -> Result<Tensor>;

    /// The contexts (m, P, D) of the next stage's sequences that rows (m, D) of the feed of `stage` give.
    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor>;

    /// The outputs of a group of the local stage.
    fn local(&self, group: &Group, outputs: &Self::Outputs, sums: &mut Self::Sums<'_>)
    -> Result<Self::OutputGradients>;

    /// The gradient of rows of the feed from that of the contexts that they gave; zeros where those were left out.
    fn contexts_backward(
        &self,
        stage: usize,
        feed: &Tensor,
        d_contexts: Option<Self::Gradient>,
        sums: &mut Self::Sums<'_>,
    ) -> Result<Self::Gradient>;

    /// The gradients of a group's outputs from the pieces of that of its feed, in order.
    fn feed_backward(&self, group: &Group, pieces: Vec<Self::Gradient>) -> Result<Self::OutputGradients>;

    /// A group's backward pass: the gradient of its contexts.
    fn backward(
        &self,
        group: &Group,
        kept: Self::Kept,
        gradients: Self::OutputGradients,
        sums: &mut Self::Sums<'_>,
    ) -> Result<Self::Gradient>;

    /// Calls `work(shard, sums)` for so many shards, each with sums of its own, and adds those to `sums`: the results, in order.
    fn side_by_side<R: Send>(
        &self,
        shards: usize,
        sums: &mut Self::Sums<'_>,
        work: impl Fn(usize, &mut Self::Sums<'_>) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        (0..shards).map(|shard| work(shard, sums)).collect()
    }
}

/// A [`Visitor`] without a way back.
pub(super) trait Look: Sync {
    /// As [`Visitor::Outputs`].
    type Outputs;
    /// What the rows of the local stage go to.
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
    /// A walk that looks at sequences: as many at once as the device computes at full speed.
    ///
    /// `first`: positions of a sample's first stage.
    pub(super) fn looking(config: &ModelConfig, first: usize, device: &Device) -> Self {
        Self::with_groups(config, first, |positions, _| group_size(positions, device))
    }

    /// A walk of a training pass over `samples` samples of `first` positions of the first stage: groups as large as
    /// `train_checkpoint_chunks` says for the stages below the first, else such that they have as many rows as are asked for.
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

    /// The bytes of a group among those of all samples, padding included.
    pub(super) fn bytes_of(&self, group: &Group) -> Range<usize> {
        let bytes = self.levels[group.stage].bytes;
        group.row * bytes..(group.row + group.rows()) * bytes
    }

    /// Groups of whole sequences of a stage, all of about one size.
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

    /// All samples, whole, in groups; in shards of samples, where there are any.
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

    /// A group, everything below it, and the group's way back: the gradient of its contexts, `None` where it was left out.
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

    /// What follows from a group's outputs: the gradients of those, `None` where everything below was left out.
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

    /// The sequences of the next stage that `rows` of a group's feed give, in groups.
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

/// What comes back from sequences to the rows that feed them.
struct Fed<G> {
    pieces: Vec<G>,
    /// Whether any of the groups was not left out.
    counts: bool,
}
