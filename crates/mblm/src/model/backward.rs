//! The training visitor of a decoder: forward and backward passes of a group, loss, gradients.
//!
//! The walk goes depth first (see [`traverse`](super::traverse)): a group's forward pass,
//! everything below, the group's backward pass. Only the gradient for the stage above is kept.
//! Nothing is computed twice, and below the first stage only one group is in memory. Groups without
//! a prediction that counts are skipped. `train_checkpoint_chunks` sets the number of groups of a
//! stage; by default a group has as many rows as the device computes at once. Sequences share their
//! start rows (see [`start`](super::start)). On the CPU, a small model trains parts of a batch side
//! by side (see [`shards`](super::shards)).
//!
//! The gradient of the summed loss is divided by the number of predictions that count.

use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use mblm_ops::cpu::{par_map, threads};
use mblm_ops::device::sum_sequences;

use super::block::{Pass, Saved};
use super::decoder::Mblm;
use super::embedding;
use super::ids::{PaddedIds, Targets};
use super::objective::{LogitRows, Objective, PredictedBytes};
use super::pass::TrainingPass;
use super::shards::{Shards, Split};
use super::stage::{OutputGradients, Outputs, Stage, zero_rows};
use super::start::{Start, StartGradient};
use super::state_gradient::StateGradient;
use super::sums::Sums;
use super::traverse::{Group, Visitor, Walk};
use crate::Result;

/// One training pass: the batch, and the data that its groups share.
pub(super) struct Training<'a> {
    pub(super) model: &'a Mblm,
    pub(super) ids: PaddedIds,
    pub(super) targets: Targets,
    /// Predicted ids and weights of all rows, (B · L'), on the device.
    device_targets: (Tensor, Tensor),
    objective: &'a dyn Objective,
    pub(super) pass: TrainingPass,
    pub(super) walk: Walk,
    /// The shared start row of each stage, `None` for stages with dropout.
    pub(super) starts: Vec<Option<Start>>,
}

/// The values of a group's forward pass that its backward pass needs.
pub(super) struct Kept {
    embedded: embedding::Saved,
    block: Saved,
}

impl<'a> Training<'a> {
    /// Creates a pass, and returns what the backward passes of its start rows need.
    pub(super) fn new(
        model: &'a Mblm,
        ids: PaddedIds,
        targets: Targets,
        objective: &'a dyn Objective,
        pass: TrainingPass,
    ) -> Result<(Self, Vec<Option<Saved>>)> {
        let positions = ids.padded / model.stages[0].bytes;
        let (rows, device) = (targets.ids.len(), model.device());
        let device_targets = (
            Tensor::from_slice(&targets.ids, rows, device)?,
            Tensor::from_slice(&targets.weights, rows, device)?,
        );
        let mut training = Self {
            walk: Walk::training(model.config(), positions, ids.batch, pass.chunking, device),
            model,
            ids,
            targets,
            device_targets,
            objective,
            pass,
            starts: Vec::with_capacity(model.stages.len()),
        };
        let mut kept = Vec::with_capacity(model.stages.len());
        for (index, stage) in model.stages.iter().enumerate() {
            let own = stage.block.has_dropout() || index == 0 && training.starts_with_samples(positions);
            let start = match own {
                true => None,
                false => Some(training.forward_start(index)?),
            };
            let (start, saved) = start.unzip();
            training.starts.push(start);
            kept.push(saved);
        }
        training.cut(positions);
        Ok((training, kept))
    }

    fn forward_start(&self, index: usize) -> Result<(Start, Saved)> {
        let (stage, compute) = (&self.model.stages[index], &self.pass.compute);
        let mut state = stage.block.initial_state();
        // all sequences start from this state
        let pass = Pass {
            keeps_state: true,
            ..self.pass_of(index, 0)
        };
        let (y, saved) = stage.forward_train(&stage.start_row(compute)?, &mut state, &pass, compute)?;
        Ok((Start { y, state }, saved))
    }

    /// Sets the number of shards and divides the group sizes among them.
    fn cut(&mut self, positions: usize) {
        if !self.pass.chunking.may_have_shards(!self.model.device().is_cpu()) {
            return;
        }
        let levels = &self.walk.levels;
        let shards = Shards::of(Split {
            parameters: self.model.parameters().elements() as u64,
            stages: levels.len(),
            batch: self.ids.batch,
            at_once: levels[0].group,
            len: self.ids.padded,
            in_chunks: self.chunk(positions).is_some(),
        });
        // smaller groups were asked for by `train_checkpoint_chunks`: no shards then
        if levels[1..].iter().all(|level| level.group >= shards.count()) {
            self.walk.shards = shards;
            self.walk.levels[0].group /= shards.samples;
            let below = self.walk.levels[1..].iter_mut();
            below.for_each(|level| level.group /= shards.count());
        }
    }

    /// Whether each sample runs its own start row, although all start rows are equal.
    ///
    /// On a GPU one more of many positions costs nothing, and a one-row pass as many launches as a
    /// full pass. Chunks share a start row, and so does a model of one stage, for the first bytes.
    fn starts_with_samples(&self, positions: usize) -> bool {
        /// From this many positions on, one more position is cheap.
        const MANY: usize = 64;
        let whole = self.pass.chunking.chunk_of(positions).is_none();
        !self.model.device().is_cpu() && self.model.stages.len() > 1 && positions >= MANY && whole
    }

    /// Positions of a chunk, or `None` if the first stage takes its `positions` at once.
    pub(super) fn chunk(&self, positions: usize) -> Option<usize> {
        let has_start = self.starts.first().is_some_and(Option::is_some);
        self.pass.chunking.chunk_of(positions).filter(|_| has_start)
    }

    pub(super) fn stage(&self, group: &Group) -> &'a Stage {
        &self.model.stages[group.stage]
    }

    /// The ids of a group, (n, t, p).
    pub(super) fn ids_of(&self, group: &Group) -> Result<Tensor> {
        let positions = self.walk.levels[group.stage].positions;
        let ids = self
            .ids
            .sequences(group.first, group.count, positions, self.stage(group).bytes)?;
        Ok(ids.narrow(1, group.from, group.positions)?)
    }

    pub(super) fn pass_of(&self, stage: usize, first_sequence: usize) -> Pass {
        Pass {
            seed: self.pass.seed_of(stage),
            first_sequence,
            keeps_state: false,
        }
    }

    /// Whether any prediction of the group, or below the group, counts.
    fn counts(&self, group: &Group) -> bool {
        let counts = |weight: &f32| *weight != 0.0;
        // without a shared start row, the first sequences also predict byte 0
        let firsts = || self.targets.first.iter().any(|(_, weight)| counts(weight));
        self.targets.weights[self.walk.bytes_of(group)].iter().any(counts)
            || self.starts[group.stage].is_none() && firsts()
    }

    /// The start rows (m, D) of the samples that begin in a group of the local stage, and their
    /// sequences; `None` if the start row is shared or no sample begins in the group.
    pub(super) fn first_rows(&self, group: &Group, before: &Tensor) -> Result<Option<FirstRows>> {
        let per_sample = self.ids.padded / group.positions;
        let samples = group.first.div_ceil(per_sample)..(group.first + group.count).div_ceil(per_sample);
        if self.starts[group.stage].is_some() || samples.is_empty() {
            return Ok(None);
        }
        let sequences: Vec<u32> = samples
            .clone()
            .map(|sample| (sample * per_sample - group.first) as u32)
            .collect();
        let count = sequences.len();
        let sequences = Tensor::from_vec(sequences, count, before.device())?;
        let rows = before.squeeze(1)?.index_select(&sequences, 0)?; // (samples, D)
        Ok(Some(FirstRows {
            samples,
            sequences,
            rows,
        }))
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

    /// Adds the loss of rows (m, D) that predict `bytes`, and returns their gradient.
    fn rows(&self, rows: &Tensor, bytes: PredictedBytes, sums: &mut Sums<'_>) -> Result<Tensor> {
        let (to_logits, compute) = (&self.model.to_logits, &self.pass.compute);
        let (targets, weights) = match &bytes {
            PredictedBytes::Rows { rows, .. } => (
                self.device_targets.0.narrow(0, rows.start, rows.len())?,
                self.device_targets.1.narrow(0, rows.start, rows.len())?,
            ),
            PredictedBytes::First(samples) => self.firsts(samples.clone())?,
        };
        let logits = to_logits.forward(rows, compute)?; // (m, V)
        let found = self.objective.rows(&LogitRows {
            logits: &logits,
            targets: &targets,
            weights: &weights,
            scale: self.pass.scale / self.targets.count as f64,
            bytes,
        })?;
        sums.losses.push(found.loss);
        let begun = Instant::now();
        let d_rows = to_logits.backward(rows, &found.d_logits, compute, sums.gradients);
        sums.backward += begun.elapsed();
        d_rows
    }

    /// Adds the loss of the first byte of each sample, if a shared row predicts it.
    pub(super) fn predict_firsts(&self, sums: &mut Sums<'_>) -> Result<()> {
        let local = self.model.stages.len() - 1;
        let Some(start) = &self.starts[local] else {
            return Ok(());
        };
        let dim = self.model.stages[local].dim;
        let row = start.y.reshape((1, dim))?;
        let batch = self.targets.first.len();
        let rows = row.broadcast_as((batch, dim))?.contiguous()?;
        let d_rows = self.rows(&rows, PredictedBytes::First(0..batch), sums)?;
        sums.starts[local].add(Some(&d_rows.unsqueeze(1)?), StateGradient::none())
    }

    /// Runs the backward passes of the shared start rows, with gradients summed over all sequences.
    pub(super) fn finish(&self, saved: Vec<Option<Saved>>, sums: &mut Sums<'_>) -> Result<()> {
        let gradients = std::mem::take(&mut sums.starts);
        for (((stage, start), saved), StartGradient { d_y, d_state }) in
            self.model.stages.iter().zip(&self.starts).zip(saved).zip(gradients)
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

/// The rows of the local stage that predict first bytes, where each sequence has its own start row.
pub(super) struct FirstRows {
    samples: Range<usize>,
    /// The sequences in the group, (samples).
    sequences: Tensor,
    /// (samples, D).
    pub(super) rows: Tensor,
}

impl FirstRows {
    /// The gradient (n, 1, D) of all start rows of a group, from the gradient of these rows.
    pub(super) fn spread(&self, group: &Group, d_rows: &Tensor) -> Result<Tensor> {
        let zeros = zero_rows(group.count, d_rows.dim(1)?, d_rows.dtype(), d_rows)?.squeeze(1)?;
        Ok(zeros.index_add(&self.sequences, d_rows, 0)?.unsqueeze(1)?)
    }
}

impl Visitor for Training<'_> {
    type Outputs = Outputs;
    type Kept = Kept;
    type OutputGradients = OutputGradients;
    type Gradient = Tensor;
    type Sums<'s> = Sums<'s>;

    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Option<(Outputs, Kept)>> {
        if !self.counts(group) {
            return Ok(None);
        }
        let (stage, compute) = (self.stage(group), &self.pass.compute);
        let (mut x, embedded) = stage
            .embedding
            .forward_train(&self.ids_of(group)?, group.from, compute)?; // (n, t, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let pass = self.pass_of(group.stage, group.first);
        let (outputs, block) = match &self.starts[group.stage] {
            Some(start) => {
                let (y, saved) = stage.forward_train(&x, &mut start.state.clone(), &pass, compute)?;
                let before = start.y.clone();
                (Outputs { before, y }, saved)
            }
            None => {
                let start = stage.start_row(compute)?.broadcast_as((group.count, 1, stage.dim))?;
                let x = Tensor::cat(&[&start, &x], 1)?; // (n, 1 + t, D)
                let mut state = stage.block.initial_state();
                let (y, saved) = stage.forward_train(&x, &mut state, &pass, compute)?;
                let outputs = Outputs {
                    before: y.narrow(1, 0, 1)?.contiguous()?,
                    y: y.narrow(1, 1, group.positions)?.contiguous()?,
                };
                (outputs, saved)
            }
        };
        Ok(Some((outputs, Kept { embedded, block })))
    }

    fn feed(&self, group: &Group, outputs: &Outputs) -> Result<Tensor> {
        self.stage(group).feed(outputs)
    }

    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor> {
        self.model.contexts(stage, feed, &self.pass.compute)
    }

    /// Returns the gradients of a group's rows, and of the start rows that predict first bytes.
    fn local(&self, group: &Group, outputs: &Outputs, sums: &mut Sums<'_>) -> Result<OutputGradients> {
        let shape = outputs.y.dims3()?;
        let rows = outputs.y.reshape((group.rows(), shape.2))?;
        let bytes = PredictedBytes::Rows {
            rows: group.row..group.row + group.rows(),
            padded: self.ids.padded,
        };
        let y = self.rows(&rows, bytes, sums)?.reshape(shape)?;
        let before = match self.first_rows(group, &outputs.before)? {
            Some(first) => {
                let d_rows = self.rows(&first.rows, PredictedBytes::First(first.samples.clone()), sums)?;
                Some(first.spread(group, &d_rows)?)
            }
            None => None, // the shared row predicts byte 0, in `predict_firsts`
        };
        Ok(OutputGradients { before, y })
    }

    fn contexts_backward(
        &self,
        stage: usize,
        feed: &Tensor,
        d_contexts: Option<Tensor>,
        sums: &mut Sums<'_>,
    ) -> Result<Tensor> {
        let Some(d_contexts) = d_contexts else {
            return Ok(feed.zeros_like()?);
        };
        let (sequences, positions, dim) = d_contexts.dims3()?;
        let d_contexts = d_contexts.reshape((sequences, positions * dim))?;
        let to_next = self.model.stages[stage].to_next();
        let begun = Instant::now();
        let d_feed = to_next.backward(feed, &d_contexts, &self.pass.compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(d_feed)
    }

    fn feed_backward(&self, group: &Group, pieces: Vec<Tensor>) -> Result<OutputGradients> {
        self.stage(group).feed_backward(&Tensor::cat(&pieces, 0)?, group.count)
    }

    fn backward(&self, group: &Group, kept: Kept, gradients: OutputGradients, sums: &mut Sums<'_>) -> Result<Tensor> {
        let (stage, compute) = (self.stage(group), &self.pass.compute);
        let OutputGradients { before, y: d_y } = gradients;
        let none = StateGradient::none();
        let begun = Instant::now();
        let dx = match &self.starts[group.stage] {
            Some(_) => {
                let (dx, d_state) = stage.backward(kept.block, &d_y, &none, compute, sums.gradients)?;
                sums.starts[group.stage].add(before.as_ref(), d_state)?;
                dx
            }
            None => {
                let d_before = match before {
                    Some(before) => before,
                    None => zero_rows(group.count, stage.dim, d_y.dtype(), &d_y)?,
                };
                let dy = Tensor::cat(&[&d_before, &d_y], 1)?;
                let (dx, _) = stage.backward(kept.block, &dy, &none, compute, sums.gradients)?;
                let d_start = sum_sequences(&dx.narrow(1, 0, 1)?)?;
                sums.gradients.of(&stage.start).add(&d_start)?;
                dx.narrow(1, 1, group.positions)?.contiguous()?
            }
        };
        stage.embedding.backward(kept.embedded, &dx, compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(dx)
    }

    fn side_by_side<R: Send>(
        &self,
        shards: usize,
        sums: &mut Sums<'_>,
        work: impl Fn(usize, &mut Sums<'_>) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        if shards == 1 {
            return Ok(vec![work(0, sums)?]);
        }
        // a shard that fails leaves partial gradients: all shard buffers are dropped then
        let mut others = sums.gradients.take_shards();
        let stages = self.model.stages.len();
        let gradients = std::iter::once(&mut *sums.gradients).chain(others.of_others(shards, self.model.parameters())?);
        let of_shards = gradients.map(|gradients| Sums::new(stages, gradients)).collect();
        let done = par_map(of_shards, true, |shard, mut sums: Sums<'_>| -> Result<_> {
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
        sums.backward += backward / shards.min(threads()) as u32; // there are few shards
        others.drain_to(sums.gradients)?;
        sums.gradients.keep_shards(others);
        Ok(results)
    }
}
