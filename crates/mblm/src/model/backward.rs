//! Training passes of the decoder: loss and gradients, depth first, with a shared start row.
//!
//! **Depth first.** Sequences of a stage are independent given the outputs of the stage above, so the stages below the first
//! run group by group: forward, everything below, backward; only the gradient for the stage above stays. Nothing is
//! computed twice, and memory below the first stage is that of one group. `train_checkpoint_chunks` sets the number of groups
//! of a stage; by default a group has as many rows as the device computes at once.
//!
//! **Shared start row.** A start token gets nothing from the stage above and blocks are causal: its row is the same for all
//! sequences of a stage. It runs once a pass, all sequences go on from its state, and the gradients that come back to its
//! output and its state are summed before its own backward pass. With dropout the masks differ, so each sequence then has
//! a start row of its own.
//!
//! **Shards.** On the CPU parts of a batch of a small model go side by side: see [`shards`](super::shards).
//!
//! **Long first stages** go in chunks of positions, one sample at a time: see [`streaming`](super::streaming).
//!
//! The loss is summed and its gradient divided by the number of predictions that count, which is known from the start.

use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mblm_ops::cpu::{par_map, threads};
use mblm_ops::cross_entropy;
use mblm_ops::device::{sum_sequences, training_rows};
use serde::{Deserialize, Serialize};

use super::block::{Pass, Saved};
use super::compute::Compute;
use super::decoder::{Mblm, even_groups, training_groups};
use super::gradients::Gradients;
use super::ids::{Ids, PaddedIds, Targets};
use super::layers::Linear;
use super::shards::{Shards, Split};
use super::stage::{Stage, zero_rows};
use super::state::{State, StateGradient};
use super::streaming::Watch;
use crate::Result;

/// The loss of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Mean over the predictions that count, in nats per byte; 0 when there are none.
    pub mean: f64,
    /// The number of predictions that count: target not padding, weight not 0.
    pub count: usize,
}

/// How much of a batch a training pass computes at once: less needs less memory and more time. The loss and its gradients do not
/// depend on it but for rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunking {
    /// Positions of the first stage; `None` for all. Where a sample has more, the first stage's forward pass is computed twice and
    /// what it keeps for the backward pass is that of so many positions, beside its states at the borders. Stages with dropout are
    /// always computed at once.
    pub positions: Option<usize>,
    /// Rows of the other stages where `train_checkpoint_chunks` does not say; `None` for as many as the device computes at full
    /// speed.
    pub rows: Option<usize>,
}

impl Chunking {
    /// Positions of a chunk, if fewer than the first stage's `positions` are asked for.
    pub(crate) fn chunk_of(&self, positions: usize) -> Option<usize> {
        let asked = self.positions?.max(1);
        (asked < positions).then_some(asked)
    }

    /// Whether a decoder's pass may be cut into shards: whoever asks for fewer rows is short of memory, which shards need.
    pub(crate) fn may_have_shards(&self, gpu: bool) -> bool {
        !gpu && self.rows.is_none()
    }

    /// Rows of a group on this device.
    pub(super) fn rows_on(&self, device: &Device, width: usize) -> usize {
        self.rows.unwrap_or_else(|| training_rows(!device.is_cpu(), width))
    }
}

/// What a training pass may vary.
#[derive(Clone, Debug)]
pub struct TrainingPass {
    /// Factor on all gradients, such as 1 / accumulated batches.
    pub scale: f64,
    /// Seed of the dropout masks; another one for every batch.
    pub seed: u64,
    /// How much is computed at once.
    pub chunking: Chunking,
    /// How the layers compute: exactly by default, whatever the model does where it is only used.
    pub compute: Compute,
}

impl Default for TrainingPass {
    fn default() -> Self {
        Self {
            scale: 1.0,
            seed: 0,
            chunking: Chunking::default(),
            compute: Compute::default(),
        }
    }
}

/// The start row of a stage, run once for all its sequences.
pub(super) struct Start {
    /// Its output (1, 1, D).
    pub(super) y: Tensor,
    pub(super) state: State,
}

/// The gradients of a start row, summed over all sequences.
#[derive(Default)]
pub(super) struct StartGradient {
    d_y: Option<Tensor>,
    d_state: StateGradient,
}

impl StartGradient {
    /// Adds gradients of its output (n, 1, D), if any, and of its state.
    pub(super) fn add(&mut self, d_y: Option<&Tensor>, d_state: StateGradient) -> Result<()> {
        self.d_state.add(d_state)?;
        match d_y {
            Some(d_y) => add_to(&mut self.d_y, sum_sequences(d_y)?),
            None => Ok(()),
        }
    }
}

/// One training pass: the batch, and what its groups share.
pub(super) struct Run<'a> {
    pub(super) model: &'a Mblm,
    pub(super) ids: PaddedIds,
    pub(super) targets: Targets,
    /// Predicted ids and weights of all rows, (B · L'), on the device.
    device_targets: (Tensor, Tensor),
    pub(super) pass: TrainingPass,
    shards: Shards,
    /// Sequences of a group, for each stage.
    groups: Vec<usize>,
    /// The shared start row of each stage, `None` for stages with dropout.
    pub(super) starts: Vec<Option<Start>>,
    /// Hears of every chunk, and may ask for an end.
    pub(super) watch: Watch<'a>,
}

/// What the groups of a pass, or of one of its shards, add up.
pub(super) struct Sums<'g> {
    pub(super) gradients: &'g mut Gradients,
    /// Of the start row of each stage.
    pub(super) starts: Vec<StartGradient>,
    losses: Vec<Tensor>,
    /// Time spent in backward passes.
    pub(super) backward: Duration,
}

impl<'g> Sums<'g> {
    fn new(stages: usize, gradients: &'g mut Gradients) -> Self {
        Self {
            gradients,
            starts: (0..stages).map(|_| StartGradient::default()).collect(),
            losses: Vec::new(),
            backward: Duration::ZERO,
        }
    }
}

impl Mblm {
    /// The loss of a batch of ids (B, L), weighed with `mask`, one weight for each id, without gradients.
    pub fn loss<'a>(&self, ids: impl Into<Ids<'a>>, mask: Option<&[f32]>) -> Result<Loss> {
        let ids = ids.into();
        let checked = self.checked(ids)?;
        let targets = Targets::new(&self.config, &checked, mask)?;
        let losses: Vec<f32> = self
            .losses(ids)?
            .to_dtype(candle_core::DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        let mut sum = 0.0;
        for (sample, losses) in losses.chunks(checked.len.max(1)).enumerate() {
            let weights = &targets.weights[sample * checked.padded..];
            let weights = std::iter::once(&targets.first[sample].1).chain(weights);
            // weight 0 means not counted, even where the loss is not finite
            let counted = losses.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
            sum += counted
                .map(|(loss, weight)| f64::from(*loss) * f64::from(*weight))
                .sum::<f64>();
        }
        Ok(Loss::mean(sum, targets.count))
    }

    /// The loss of a batch of ids (B, L), weighed with `mask`, one weight for each id; adds its gradients, times `pass.scale`,
    /// to `gradients`.
    pub fn loss_and_gradients<'a>(
        &self,
        ids: impl Into<Ids<'a>>,
        mask: Option<&[f32]>,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<Loss> {
        Ok(self
            .timed_loss_and_gradients(ids.into(), mask, pass, gradients, Watch::default())?
            .0)
    }

    /// The same, with the time spent in backward passes; `watch` is for passes in chunks.
    pub(super) fn timed_loss_and_gradients(
        &self,
        ids: Ids<'_>,
        mask: Option<&[f32]>,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<(Loss, Duration)> {
        let ids = self.checked(ids)?;
        let targets = Targets::new(&self.config, &ids, mask)?;
        if targets.count == 0 {
            return Ok((Loss::mean(0.0, 0), Duration::ZERO));
        }
        let (mut run, saved) = Run::new(self, ids, targets, pass)?;
        let mut sums = Sums::new(self.stages.len(), gradients);
        let positions = run.ids.padded / self.stages[0].bytes;
        match run.chunk(positions) {
            Some(chunk) => {
                run.watch = watch;
                for sample in 0..run.ids.batch {
                    run.stream(sample, positions, chunk, &mut sums)?;
                }
            }
            None => {
                let shards = run.shards.samples;
                let of_shard = run.ids.batch / shards;
                run.side_by_side(shards, &mut sums, |shard, sums| {
                    run.samples(shard * of_shard..(shard + 1) * of_shard, positions, sums)
                })?;
            }
        }
        run.finish(saved, &mut sums)?;
        Ok((Loss::mean(total(&sums.losses)?, run.targets.count), sums.backward))
    }
}

impl Loss {
    pub(super) fn mean(sum: f64, count: usize) -> Self {
        Self {
            mean: if count == 0 { 0.0 } else { sum / count as f64 },
            count,
        }
    }

    /// The mean in bits per byte.
    pub fn bits_per_byte(&self) -> f64 {
        self.mean / std::f64::consts::LN_2
    }
}

impl<'a> Run<'a> {
    /// A pass, and what its start rows keep for their backward passes.
    fn new(
        model: &'a Mblm,
        ids: PaddedIds,
        targets: Targets,
        pass: TrainingPass,
    ) -> Result<(Self, Vec<Option<Saved>>)> {
        let positions = ids.padded / model.stages[0].bytes;
        let sizes = (ids.host.len(), positions);
        let groups = training_groups(&model.config, sizes, pass.chunking, model.device());
        let (rows, device) = (targets.ids.len(), model.device());
        let device_targets = (
            Tensor::from_slice(&targets.ids, rows, device)?,
            Tensor::from_slice(&targets.weights, rows, device)?,
        );
        let mut run = Self {
            model,
            ids,
            targets,
            device_targets,
            pass,
            shards: Shards::NONE,
            groups,
            starts: Vec::with_capacity(model.stages.len()),
            watch: Watch::default(),
        };
        let mut kept = Vec::with_capacity(model.stages.len());
        for (index, stage) in model.stages.iter().enumerate() {
            let (start, saved) = if stage.block.has_dropout() || index == 0 && run.starts_with_samples(positions) {
                (None, None)
            } else {
                let mut state = stage.block.initial_state();
                let (y, saved) = run.forward_start(index, &mut state)?;
                (Some(Start { y, state }), Some(saved))
            };
            run.starts.push(start);
            kept.push(saved);
        }
        run.cut(positions);
        Ok((run, kept))
    }

    /// Decides about shards, which share the memory of a group.
    fn cut(&mut self, positions: usize) {
        if !self.pass.chunking.may_have_shards(!self.model.device().is_cpu()) {
            return;
        }
        let shards = Shards::of(Split {
            parameters: self.model.parameters().elements() as u64,
            stages: self.model.stages.len(),
            batch: self.ids.batch,
            at_once: self.groups[0],
            len: self.ids.padded,
            in_chunks: self.chunk(positions).is_some(),
        });
        // groups of fewer sequences than shards are what `train_checkpoint_chunks` asks for
        if self.groups[1..].iter().all(|group| *group >= shards.count()) {
            self.shards = shards;
            self.groups[0] /= shards.samples;
            self.groups[1..].iter_mut().for_each(|group| *group /= shards.count());
        }
    }

    /// Calls `work(shard, sums)` for so many shards, each with sums of its own, and adds those to `sums`: the results.
    fn side_by_side<R: Send>(
        &self,
        shards: usize,
        sums: &mut Sums,
        work: impl Fn(usize, &mut Sums) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        if shards == 1 {
            return Ok(vec![work(0, sums)?]);
        }
        // a shard that fails leaves gradients of a part of its work: then all are dropped
        let mut others = sums.gradients.take_shards();
        let stages = self.model.stages.len();
        let gradients = std::iter::once(&mut *sums.gradients).chain(others.of_others(shards, self.model.parameters())?);
        let of_shards = gradients.map(|gradients| Sums::new(stages, gradients)).collect();
        let done = par_map(of_shards, true, |shard, mut sums: Sums| -> Result<_> {
            let result = work(shard, &mut sums)?;
            Ok((result, sums.starts, sums.losses, sums.backward))
        });
        let mut results = Vec::with_capacity(shards);
        let mut backward = Duration::ZERO;
        for shard in done {
            let (result, starts, losses, of_shard) = shard?;
            results.push(result);
            for (sum, StartGradient { d_y, d_state }) in sums.starts.iter_mut().zip(starts) {
                sum.add(d_y.as_ref(), d_state)?;
            }
            sums.losses.extend(losses);
            backward += of_shard;
        }
        sums.backward += backward / shards.min(threads()) as u32; // shards are few
        others.drain_to(sums.gradients)?;
        sums.gradients.keep_shards(others);
        Ok(results)
    }

    /// Samples, in groups.
    fn samples(&self, samples: Range<usize>, positions: usize, sums: &mut Sums) -> Result<()> {
        let group = even_groups(samples.len(), self.groups[0]);
        for first in samples.clone().step_by(group) {
            let count = group.min(samples.end - first);
            self.stage(0, first, count, positions, None, sums)?;
        }
        Ok(())
    }

    /// Whether each sample's first stage of so many positions has a start row of its own, although all are the same: on a GPU one more
    /// position costs nothing, and a pass over a single row as many launches as one over all. Chunking begin from a shared one, and
    /// so does the prediction of the first bytes where there is one stage alone.
    fn starts_with_samples(&self, positions: usize) -> bool {
        /// Beside so many one more is little.
        const MANY: usize = 64;
        let whole = self.pass.chunking.chunk_of(positions).is_none();
        !self.model.device().is_cpu() && self.model.stages.len() > 1 && positions >= MANY && whole
    }

    /// Positions of a chunk of the first stage, if its `positions` go in chunks.
    fn chunk(&self, positions: usize) -> Option<usize> {
        let has_start = self.starts.first().is_some_and(Option::is_some);
        self.pass.chunking.chunk_of(positions).filter(|_| has_start)
    }

    /// The factor from summed losses to the gradient that is asked for.
    fn scale(&self) -> f64 {
        self.pass.scale / self.targets.count as f64
    }

    pub(super) fn pass_of(&self, stage: usize, first_sequence: usize) -> Pass {
        Pass {
            seed: self.pass.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stage as u64,
            first_sequence,
            keeps_state: false,
        }
    }

    /// The pass of a shared start row, from whose state all sequences go on.
    fn start_pass(&self, stage: usize) -> Pass {
        Pass {
            keeps_state: true,
            ..self.pass_of(stage, 0)
        }
    }

    fn forward_start(&self, index: usize, state: &mut State) -> Result<(Tensor, Saved)> {
        let (stage, compute) = (&self.model.stages[index], &self.pass.compute);
        stage.forward_train(&stage.start_row(compute)?, state, &self.start_pass(index), compute)
    }

    /// One group of sequences of a stage and everything below it, forward and backward.
    ///
    /// Returns the gradient of `context` (count, positions, D), or nothing when no prediction below counts.
    fn stage(
        &self,
        index: usize,
        first: usize,
        count: usize,
        positions: usize,
        context: Option<&Tensor>,
        sums: &mut Sums,
    ) -> Result<Option<Tensor>> {
        let (stage, compute) = (&self.model.stages[index], &self.pass.compute);
        let (from, to) = (
            first * positions * stage.bytes,
            (first + count) * positions * stage.bytes,
        );
        let counts = |weight: &f32| *weight != 0.0;
        // byte 0 hangs on the first sequences too when start rows are not shared
        let firsts = self.starts[index].is_none() && self.targets.first.iter().any(|(_, weight)| counts(weight));
        if !firsts && !self.targets.weights[from..to].iter().any(counts) {
            return Ok(None);
        }
        let ids = self.ids.sequences(first, count, positions, stage.bytes)?;
        let (mut x, embedded) = stage.embedding.forward_train(&ids, 0, compute)?; // (count, positions, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let pass = self.pass_of(index, first);
        let shared = self.starts[index]
            .as_ref()
            .map(|start| (start.y.clone(), start.state.clone()));
        let dx = if let Some((first_y, mut state)) = shared {
            let (y, saved) = stage.forward_train(&x, &mut state, &pass, compute)?;
            let Some((d_first, d_y)) = self.below(index, first * positions, &first_y, &y, sums)? else {
                return Ok(None);
            };
            let begun = Instant::now();
            let (dx, d_state) = stage.backward(saved, &d_y, &StateGradient::none(), compute, sums.gradients)?;
            sums.backward += begun.elapsed();
            sums.starts[index].add(d_first.as_ref(), d_state)?;
            dx
        } else {
            let start = stage.start_row(compute)?.broadcast_as((count, 1, stage.dim))?;
            let x = Tensor::cat(&[&start, &x], 1)?; // (count, 1 + positions, D)
            let (y, saved) = stage.forward_train(&x, &mut stage.block.initial_state(), &pass, compute)?;
            let (first_y, y) = (
                y.narrow(1, 0, 1)?.contiguous()?,
                y.narrow(1, 1, positions)?.contiguous()?,
            );
            let Some((d_first, d_y)) = self.below(index, first * positions, &first_y, &y, sums)? else {
                return Ok(None);
            };
            let d_first = match d_first {
                Some(d_first) => d_first,
                None => zero_rows(count, stage.dim, d_y.dtype(), &d_y)?,
            };
            let dy = Tensor::cat(&[&d_first, &d_y], 1)?;
            let begun = Instant::now();
            let (dx, _) = stage.backward(saved, &dy, &StateGradient::none(), compute, sums.gradients)?;
            sums.backward += begun.elapsed();
            sums.gradients
                .of(&stage.start)
                .add(&sum_sequences(&dx.narrow(1, 0, 1)?)?)?;
            dx.narrow(1, 1, positions)?.contiguous()?
        };
        let begun = Instant::now();
        stage.embedding.backward(embedded, &dx, compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(Some(dx))
    }

    /// The gradients of a group's outputs: of the row before them (count or 1, 1, D), if any, and of `y` (count, positions, D).
    ///
    /// `first` is the number of the first row of `y` among all rows of the stage, `first_y` the output before it: that of the
    /// start row, or that of the chunk before.
    pub(super) fn below(
        &self,
        index: usize,
        first: usize,
        first_y: &Tensor,
        y: &Tensor,
        sums: &mut Sums,
    ) -> Result<Option<(Option<Tensor>, Tensor)>> {
        let (count, positions, _) = y.dims3()?;
        let model = self.model;
        let stage = &model.stages[index];
        let (Some(next), Some(to_next)) = (model.stages.get(index + 1), &stage.to_next) else {
            return self.predict(first, first_y, y, sums).map(Some);
        };
        let feed = stage.feed(first_y, y)?; // (count · positions, D)
        let all = count * positions;
        let shards = match index {
            0 => self.shards.of_sequences(all * next.positions * next.bytes).min(all),
            _ => 1,
        };
        let pieces = self.side_by_side(shards, sums, |shard, sums| {
            let rows = shard * all / shards..(shard + 1) * all / shards;
            self.below_rows((index, first), rows, (&feed, next, to_next), sums)
        })?;
        if pieces.iter().all(|(_, any)| !any) {
            return Ok(None);
        }
        let pieces: Vec<Tensor> = pieces.into_iter().flat_map(|(pieces, _)| pieces).collect();
        let (d_first, d_y) = stage.feed_backward(&Tensor::cat(&pieces, 0)?, count)?;
        Ok(Some((Some(d_first), d_y)))
    }

    /// The gradients of `rows` of what a stage feeds the next one (m, D), in pieces, and whether any of them counts.
    fn below_rows(
        &self,
        (index, first): (usize, usize),
        rows: Range<usize>,
        (feed, next, to_next): (&Tensor, &Stage, &Linear),
        sums: &mut Sums,
    ) -> Result<(Vec<Tensor>, bool)> {
        let (stage, compute) = (&self.model.stages[index], &self.pass.compute);
        let group = even_groups(rows.len(), self.groups[index + 1]);
        let mut pieces = Vec::new();
        let mut any = false;
        for row in rows.clone().step_by(group) {
            let sequences = group.min(rows.end - row);
            let feed = feed.narrow(0, row, sequences)?;
            let context = stage.contexts(&feed, next, compute)?;
            let d_context = self.stage(
                index + 1,
                first + row,
                sequences,
                next.positions,
                context.as_ref(),
                sums,
            )?;
            pieces.push(match d_context {
                Some(d_context) => {
                    any = true;
                    let d_context = d_context.reshape((sequences, next.positions * next.dim))?;
                    let begun = Instant::now();
                    let d_feed = to_next.backward(&feed, &d_context, compute, sums.gradients)?;
                    sums.backward += begun.elapsed();
                    d_feed
                }
                None => feed.zeros_like()?,
            });
        }
        Ok((pieces, any))
    }

    /// Loss of the rows of the local stage, `first` and those after it, and the gradients of its outputs.
    fn predict(&self, first: usize, first_y: &Tensor, y: &Tensor, sums: &mut Sums) -> Result<(Option<Tensor>, Tensor)> {
        let (count, positions, dim) = y.dims3()?;
        let range = first..first + count * positions;
        let rows = y.reshape((count * positions, dim))?;
        let targets = self.device_targets.0.narrow(0, range.start, range.len())?;
        let weights = self.device_targets.1.narrow(0, range.start, range.len())?;
        let d_rows = self.rows(&rows, &targets, &weights, sums)?;
        let d_y = d_rows.reshape((count, positions, dim))?;
        let local = self.model.stages.len() - 1;
        if self.starts[local].is_some() {
            return Ok((None, d_y)); // byte 0 is predicted by the shared row, in `finish`
        }
        // start rows of the first patch of each sample in this group
        let first = first / positions;
        let per_sample = self.ids.padded / positions;
        let samples = first.div_ceil(per_sample)..(first + count).div_ceil(per_sample);
        if samples.is_empty() {
            return Ok((None, d_y));
        }
        let sequences: Vec<u32> = samples
            .clone()
            .map(|sample| (sample * per_sample - first) as u32)
            .collect();
        let (targets, weights) = self.firsts(samples)?;
        let sequences = Tensor::from_vec(sequences.clone(), sequences.len(), y.device())?;
        let rows = first_y.squeeze(1)?.index_select(&sequences, 0)?; // (samples, D)
        let d_rows = self.rows(&rows, &targets, &weights, sums)?;
        let zeros = zero_rows(count, dim, d_rows.dtype(), &d_rows)?.squeeze(1)?;
        let d_first = zeros.index_add(&sequences, &d_rows, 0)?.unsqueeze(1)?;
        Ok((Some(d_first), d_y))
    }

    /// Ids and weights of the first bytes of `samples`, on the device.
    fn firsts(&self, samples: Range<usize>) -> Result<(Tensor, Tensor)> {
        let (ids, weights): (Vec<u32>, Vec<f32>) = self.targets.first[samples].iter().copied().unzip();
        let (count, device) = (ids.len(), self.model.device());
        Ok((
            Tensor::from_vec(ids, count, device)?,
            Tensor::from_vec(weights, count, device)?,
        ))
    }

    /// Adds the loss of rows (m, D) that predict `targets`, and returns their gradient.
    fn rows(&self, rows: &Tensor, targets: &Tensor, weights: &Tensor, sums: &mut Sums) -> Result<Tensor> {
        let (to_logits, compute) = (&self.model.to_logits, &self.pass.compute);
        let logits = to_logits.forward(rows, compute)?; // (m, V)
        let (loss, d_logits) = cross_entropy::loss_and_gradient(&logits, targets, weights, self.scale())?;
        sums.losses.push(loss);
        let begun = Instant::now();
        let d_rows = to_logits.backward(rows, &d_logits, compute, sums.gradients);
        sums.backward += begun.elapsed();
        d_rows
    }

    /// The first bytes of all samples, and the backward passes of the shared start rows.
    fn finish(&self, saved: Vec<Option<Saved>>, sums: &mut Sums) -> Result<()> {
        let model = self.model;
        let local = model.stages.len() - 1;
        if let Some(start) = &self.starts[local] {
            let dim = model.stages[local].dim;
            let row = start.y.reshape((1, dim))?;
            let batch = self.targets.first.len();
            let rows = row.broadcast_as((batch, dim))?.contiguous()?;
            let (targets, weights) = self.firsts(0..batch)?;
            let d_rows = self.rows(&rows, &targets, &weights, sums)?;
            sums.starts[local].add(Some(&d_rows.unsqueeze(1)?), StateGradient::none())?;
        }
        let gradients = std::mem::take(&mut sums.starts);
        for (((stage, start), saved), StartGradient { d_y, d_state }) in
            model.stages.iter().zip(&self.starts).zip(saved).zip(gradients)
        {
            let (Some(start), Some(saved)) = (start, saved) else {
                continue;
            };
            if d_y.is_none() && d_state.is_none() {
                continue;
            }
            let d_y = match d_y {
                Some(d_y) => d_y.to_dtype(start.y.dtype())?,
                None => start.y.zeros_like()?,
            };
            let begun = Instant::now();
            let d_state = d_state.in_types_of(&start.state)?;
            let (dx, _) = stage.backward(saved, &d_y, &d_state, &self.pass.compute, sums.gradients)?;
            sums.gradients.of(&stage.start).add(&dx)?;
            sums.backward += begun.elapsed();
        }
        Ok(())
    }
}

/// The sum of losses that the device has computed, which is the one thing that a pass waits for.
pub(super) fn total(losses: &[Tensor]) -> Result<f64> {
    if losses.is_empty() {
        return Ok(0.0);
    }
    Ok(Tensor::stack(losses, 0)?.to_vec1::<f64>()?.into_iter().sum())
}

fn add_to(sum: &mut Option<Tensor>, term: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + term)?,
        None => term,
    });
    Ok(())
}
