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
//! **Long first stages** go in portions of positions, one sample at a time: see [`streaming`](super::streaming).
//!
//! The loss is summed and its gradient divided by the number of predictions that count, which is known from the start.

use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mblm_ops::cross_entropy;
use mblm_ops::device::{sum_sequences, training_rows};
use serde::{Deserialize, Serialize};

use super::block::{Pass, Saved};
use super::decoder::{Mblm, even_groups, sequences_in, training_groups};
use super::ids::{Ids, Targets};
use super::parameter::Gradients;
use super::stage::zero_rows;
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
pub struct Portions {
    /// Positions of the first stage; `None` for all. Where a sample has more, the first stage's forward pass is computed twice and
    /// what it keeps for the backward pass is that of so many positions, beside its states at the borders. Stages with dropout are
    /// always computed at once.
    pub positions: Option<usize>,
    /// Rows of the other stages where `train_checkpoint_chunks` does not say; `None` for as many as the device computes at full
    /// speed.
    pub rows: Option<usize>,
}

impl Portions {
    /// Positions of a portion, if fewer than the first stage's `positions` are asked for.
    pub(crate) fn portion_of(&self, positions: usize) -> Option<usize> {
        let asked = self.positions?.max(1);
        (asked < positions).then_some(asked)
    }

    /// Rows of a group on this device.
    pub(super) fn rows_on(&self, device: &Device, width: usize) -> usize {
        self.rows.unwrap_or_else(|| training_rows(!device.is_cpu(), width))
    }
}

/// What a training pass may vary.
#[derive(Clone, Copy, Debug)]
pub struct TrainingPass {
    /// Factor on all gradients, such as 1 / accumulated batches.
    pub scale: f64,
    /// Seed of the dropout masks; another one for every batch.
    pub seed: u64,
    /// How much is computed at once.
    pub portions: Portions,
}

impl Default for TrainingPass {
    fn default() -> Self {
        Self {
            scale: 1.0,
            seed: 0,
            portions: Portions::default(),
        }
    }
}

/// The start row of a stage, run once for all its sequences.
pub(super) struct Start {
    /// Its output (1, 1, D).
    pub(super) y: Tensor,
    pub(super) state: State,
    saved: Saved,
    /// Gradient of the output, summed over all sequences.
    d_y: Option<Tensor>,
    d_state: StateGradient,
}

impl Start {
    /// Adds gradients of its output (n, 1, D), if any, and of its state.
    pub(super) fn add(&mut self, d_y: Option<&Tensor>, d_state: StateGradient) -> Result<()> {
        self.d_state.add(d_state)?;
        match d_y {
            Some(d_y) => add_to(&mut self.d_y, sum_sequences(d_y)?),
            None => Ok(()),
        }
    }
}

/// One training pass: the batch, what is shared by its groups, and what they add up.
pub(super) struct Run<'a> {
    pub(super) model: &'a Mblm,
    pub(super) ids: Ids,
    pub(super) targets: Targets,
    /// Predicted ids and weights of all rows, (B · L'), on the device.
    device_targets: (Tensor, Tensor),
    pass: TrainingPass,
    /// Sequences of a group, for each stage.
    groups: Vec<usize>,
    /// The shared start row of each stage, `None` for stages with dropout.
    pub(super) starts: Vec<Option<Start>>,
    losses: Vec<Tensor>,
    /// Time spent in backward passes.
    pub(super) backward: Duration,
    /// Hears of every portion, and may ask for an end.
    pub(super) watch: Watch<'a>,
}

impl Mblm {
    /// The loss of a batch of ids (B, L), weighed with `mask` (B, L), without gradients.
    pub fn loss(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Loss> {
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

    /// The loss of a batch of ids (B, L), weighed with `mask` (B, L); adds its gradients, times `pass.scale`, to `gradients`.
    pub fn loss_and_gradients(
        &self,
        ids: &Tensor,
        mask: Option<&Tensor>,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<Loss> {
        Ok(self
            .timed_loss_and_gradients(ids, mask, pass, gradients, Watch::default())?
            .0)
    }

    /// The same, with the time spent in backward passes; `watch` is for passes in portions.
    pub(super) fn timed_loss_and_gradients(
        &self,
        ids: &Tensor,
        mask: Option<&Tensor>,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<(Loss, Duration)> {
        let ids = self.checked(ids)?;
        let targets = Targets::new(&self.config, &ids, mask)?;
        if targets.count == 0 {
            return Ok((Loss::mean(0.0, 0), Duration::ZERO));
        }
        let mut run = Run::new(self, ids, targets, pass)?;
        let positions = run.ids.padded / self.stages[0].bytes;
        if let Some(portion) = run.portion(positions) {
            run.watch = watch;
            for sample in 0..run.ids.batch {
                run.stream(sample, positions, portion, gradients)?;
            }
            run.finish(gradients)?;
            return Ok((Loss::mean(total(&run.losses)?, run.targets.count), run.backward));
        }
        let rows = pass.portions.rows_on(self.device(), self.stages[0].dim);
        let group = even_groups(run.ids.batch, sequences_in(rows, positions));
        for first in (0..run.ids.batch).step_by(group) {
            let count = group.min(run.ids.batch - first);
            run.stage(0, first, count, positions, None, gradients)?;
        }
        run.finish(gradients)?;
        Ok((Loss::mean(total(&run.losses)?, run.targets.count), run.backward))
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
    fn new(model: &'a Mblm, ids: Ids, targets: Targets, pass: TrainingPass) -> Result<Self> {
        let groups = training_groups(&model.config, ids.host.len(), pass.portions, model.device());
        let positions = ids.padded / model.stages[0].bytes;
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
            groups,
            starts: Vec::with_capacity(model.stages.len()),
            losses: Vec::new(),
            backward: Duration::ZERO,
            watch: Watch::default(),
        };
        for (index, stage) in model.stages.iter().enumerate() {
            let start = if stage.block.has_dropout() || index == 0 && run.starts_with_samples(positions) {
                None
            } else {
                let mut state = stage.block.initial_state();
                let (y, saved) = stage.forward_train(&stage.start_row()?, &mut state, &run.start_pass(index))?;
                Some(Start {
                    y,
                    state,
                    saved,
                    d_y: None,
                    d_state: StateGradient::none(),
                })
            };
            run.starts.push(start);
        }
        Ok(run)
    }

    /// Whether each sample's first stage of so many positions has a start row of its own, although all are the same: on a GPU one more
    /// position costs nothing, and a pass over a single row as many launches as one over all. Portions begin from a shared one, and
    /// so does the prediction of the first bytes where there is one stage alone.
    fn starts_with_samples(&self, positions: usize) -> bool {
        /// Beside so many one more is little.
        const MANY: usize = 64;
        let whole = self.pass.portions.portion_of(positions).is_none();
        !self.model.device().is_cpu() && self.model.stages.len() > 1 && positions >= MANY && whole
    }

    /// Positions of a portion of the first stage, if its `positions` go in portions.
    fn portion(&self, positions: usize) -> Option<usize> {
        let has_start = self.starts.first().is_some_and(Option::is_some);
        self.pass.portions.portion_of(positions).filter(|_| has_start)
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

    /// One group of sequences of a stage and everything below it, forward and backward.
    ///
    /// Returns the gradient of `context` (count, positions, D), or nothing when no prediction below counts.
    fn stage(
        &mut self,
        index: usize,
        first: usize,
        count: usize,
        positions: usize,
        context: Option<&Tensor>,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let stage = &self.model.stages[index];
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
        let (mut x, embedded) = stage.embedding.forward_train(&ids, 0)?; // (count, positions, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let pass = self.pass_of(index, first);
        let shared = self.starts[index]
            .as_ref()
            .map(|start| (start.y.clone(), start.state.clone()));
        let dx = if let Some((first_y, mut state)) = shared {
            let (y, saved) = stage.forward_train(&x, &mut state, &pass)?;
            let Some((d_first, d_y)) = self.below(index, first * positions, &first_y, &y, gradients)? else {
                return Ok(None);
            };
            let begun = Instant::now();
            let (dx, d_state) = stage.backward(saved, &d_y, &StateGradient::none(), gradients)?;
            self.backward += begun.elapsed();
            if let Some(start) = &mut self.starts[index] {
                start.add(d_first.as_ref(), d_state)?;
            }
            dx
        } else {
            let start = stage.start_row()?.broadcast_as((count, 1, stage.dim))?;
            let x = Tensor::cat(&[&start, &x], 1)?; // (count, 1 + positions, D)
            let (y, saved) = stage.forward_train(&x, &mut stage.block.initial_state(), &pass)?;
            let (first_y, y) = (
                y.narrow(1, 0, 1)?.contiguous()?,
                y.narrow(1, 1, positions)?.contiguous()?,
            );
            let Some((d_first, d_y)) = self.below(index, first * positions, &first_y, &y, gradients)? else {
                return Ok(None);
            };
            let d_first = match d_first {
                Some(d_first) => d_first,
                None => zero_rows(count, stage.dim, d_y.dtype(), &d_y)?,
            };
            let dy = Tensor::cat(&[&d_first, &d_y], 1)?;
            let begun = Instant::now();
            let (dx, _) = stage.backward(saved, &dy, &StateGradient::none(), gradients)?;
            self.backward += begun.elapsed();
            gradients.of(&stage.start).add(&sum_sequences(&dx.narrow(1, 0, 1)?)?)?;
            dx.narrow(1, 1, positions)?.contiguous()?
        };
        let begun = Instant::now();
        stage.embedding.backward(embedded, &dx, gradients)?;
        self.backward += begun.elapsed();
        Ok(Some(dx))
    }

    /// The gradients of a group's outputs: of the row before them (count or 1, 1, D), if any, and of `y` (count, positions, D).
    ///
    /// `first` is the number of the first row of `y` among all rows of the stage, `first_y` the output before it: that of the
    /// start row, or that of the portion before.
    pub(super) fn below(
        &mut self,
        index: usize,
        first: usize,
        first_y: &Tensor,
        y: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Option<(Option<Tensor>, Tensor)>> {
        let (count, positions, _) = y.dims3()?;
        let model = self.model;
        let stage = &model.stages[index];
        let (Some(next), Some(to_next)) = (model.stages.get(index + 1), &stage.to_next) else {
            return self.predict(first, first_y, y, gradients).map(Some);
        };
        let feed = stage.feed(first_y, y)?; // (count · positions, D)
        let group = even_groups(count * positions, self.groups[index + 1]);
        let mut pieces = Vec::new();
        let mut any = false;
        for row in (0..count * positions).step_by(group) {
            let sequences = group.min(count * positions - row);
            let feed = feed.narrow(0, row, sequences)?;
            let context = stage.contexts(&feed, next)?;
            let d_context = self.stage(
                index + 1,
                first + row,
                sequences,
                next.positions,
                context.as_ref(),
                gradients,
            )?;
            pieces.push(match d_context {
                Some(d_context) => {
                    any = true;
                    let d_context = d_context.reshape((sequences, next.positions * next.dim))?;
                    let begun = Instant::now();
                    let d_feed = to_next.backward(&feed, &d_context, gradients)?;
                    self.backward += begun.elapsed();
                    d_feed
                }
                None => feed.zeros_like()?,
            });
        }
        if !any {
            return Ok(None);
        }
        let (d_first, d_y) = stage.feed_backward(&Tensor::cat(&pieces, 0)?, count)?;
        Ok(Some((Some(d_first), d_y)))
    }

    /// Loss of the rows of the local stage, `first` and those after it, and the gradients of its outputs.
    fn predict(
        &mut self,
        first: usize,
        first_y: &Tensor,
        y: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<(Option<Tensor>, Tensor)> {
        let (count, positions, dim) = y.dims3()?;
        let range = first..first + count * positions;
        let rows = y.reshape((count * positions, dim))?;
        let targets = self.device_targets.0.narrow(0, range.start, range.len())?;
        let weights = self.device_targets.1.narrow(0, range.start, range.len())?;
        let d_rows = self.rows(&rows, &targets, &weights, gradients)?;
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
        let d_rows = self.rows(&rows, &targets, &weights, gradients)?;
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
    fn rows(&mut self, rows: &Tensor, targets: &Tensor, weights: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        let to_logits = &self.model.to_logits;
        let logits = to_logits.forward(rows)?; // (m, V)
        let (loss, d_logits) = cross_entropy::loss_and_gradient(&logits, targets, weights, self.scale())?;
        self.losses.push(loss);
        let begun = Instant::now();
        let d_rows = to_logits.backward(rows, &d_logits, gradients);
        self.backward += begun.elapsed();
        d_rows
    }

    /// The first bytes of all samples, and the backward passes of the shared start rows.
    fn finish(&mut self, gradients: &mut Gradients) -> Result<()> {
        let model = self.model;
        let local = model.stages.len() - 1;
        if let Some(start) = &self.starts[local] {
            let dim = model.stages[local].dim;
            let row = start.y.reshape((1, dim))?;
            let batch = self.targets.first.len();
            let rows = row.broadcast_as((batch, dim))?.contiguous()?;
            let (targets, weights) = self.firsts(0..batch)?;
            let d_rows = self.rows(&rows, &targets, &weights, gradients)?;
            if let Some(start) = &mut self.starts[local] {
                add_to(&mut start.d_y, sum_sequences(&d_rows)?.unsqueeze(0)?)?;
            }
        }
        for (stage, start) in model.stages.iter().zip(std::mem::take(&mut self.starts)) {
            let Some(start) = start else { continue };
            if start.d_y.is_none() && start.d_state.is_none() {
                continue;
            }
            let d_y = match start.d_y {
                Some(d_y) => d_y.to_dtype(start.y.dtype())?,
                None => start.y.zeros_like()?,
            };
            let begun = Instant::now();
            let d_state = start.d_state.in_types_of(&start.state)?;
            let (dx, _) = stage.backward(start.saved, &d_y, &d_state, gradients)?;
            gradients.of(&stage.start).add(&dx)?;
            self.backward += begun.elapsed();
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
