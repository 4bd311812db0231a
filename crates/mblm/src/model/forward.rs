//! A training pass in two calls: forward, which returns logits, and backward from their gradient.
//!
//! For losses that need the logits of a whole batch at once. The pass keeps what the backward pass
//! needs of all stages and sequences. If the loss is a sum over rows, an
//! [`Objective`](super::Objective) needs the memory of one group only.

use candle_core::Tensor;

use super::backward::{FirstRows, Kept, Training};
use super::block::Saved;
use super::decoder::Mblm;
use super::gradients::Gradients;
use super::ids::{Ids, Targets};
use super::objective::CrossEntropy;
use super::pass::TrainingPass;
use super::stage::OutputGradients;
use super::state_gradient::StateGradient;
use super::sums::Sums;
use super::traverse::{Group, Visitor};
use crate::{Error, Result};

/// A finished forward pass with everything that its backward pass needs.
///
/// ```
/// # use mblm::model::{Gradients, Mblm, TrainingPass};
/// # fn example(model: &Mblm) -> mblm::Result<()> {
/// let text: Vec<u32> = "a text".bytes().map(u32::from).collect();
/// let forward = model.forward_train(&text, TrainingPass::default())?;
/// let d_logits = (forward.logits() * 1e-3)?; // of the loss Σ 0.5e-3 · logit²
/// let mut gradients = Gradients::zeros(model.parameters())?;
/// forward.backward(&d_logits, None, &mut gradients)?;
/// # Ok(())
/// # }
/// ```
pub struct ForwardPass<'a> {
    training: Training<'a>,
    starts: Vec<Option<Saved>>,
    stages: Vec<KeptStage>,
    /// The outputs of the local stage (B · L', D).
    rows: Tensor,
    /// The rows (B, D) that predict first bytes; `first_rows` if start rows are not shared.
    first: Tensor,
    first_rows: Option<FirstRows>,
    logits: Tensor,
    first_logits: Tensor,
}

/// The data that one stage keeps.
struct KeptStage {
    group: Group,
    kept: Kept,
    /// The rows that feed the next stage, (n · t, D).
    feed: Option<Tensor>,
}

impl Mblm {
    /// Runs a forward pass over ids (B, L), with dropout, ignoring `pass.chunking`.
    ///
    /// # Errors
    /// No ids, ids outside the vocabulary, or more than a fixed position table allows.
    pub fn forward_train<'a>(&self, ids: impl Into<Ids<'a>>, pass: TrainingPass) -> Result<ForwardPass<'_>> {
        let ids = self.checked(ids.into())?;
        if ids.host.is_empty() {
            return Err(Error::input("forward_train: expected at least one id"));
        }
        let targets = Targets::all(&ids);
        let (batch, len, padded) = (ids.batch, ids.len, ids.padded);
        let (training, starts) = Training::new(self, ids, targets, &CrossEntropy, pass)?;
        let (mut stages, mut context, mut sequences) = (Vec::new(), None, batch);
        let mut last = None;
        for index in 0..self.stages.len() {
            let group = training.walk.whole(index, sequences);
            let Some((outputs, kept)) = training.forward(&group, context.take())? else {
                return Err(Error::input("forward_train: expected a pass whose rows all count"));
            };
            sequences *= group.positions;
            let feed = match index + 1 < self.stages.len() {
                true => {
                    let feed = training.feed(&group, &outputs)?;
                    context = Some(training.contexts(index, &feed)?);
                    Some(feed)
                }
                false => None,
            };
            last = feed.is_none().then_some(outputs);
            stages.push(KeptStage { group, kept, feed });
        }
        let (Some(outputs), Some(KeptStage { group, .. })) = (last, stages.last()) else {
            return Err(Error::input("forward_train: expected a model of at least one stage"));
        };
        let dim = self.local().dim;
        let rows = outputs.y.reshape((batch * padded, dim))?;
        let first_rows = training.first_rows(group, &outputs.before)?;
        let first = match &first_rows {
            Some(first) => first.rows.clone(),
            None => outputs
                .before
                .reshape((1, dim))?
                .broadcast_as((batch, dim))?
                .contiguous()?,
        };
        let compute = &training.pass.compute;
        let logits = self.to_logits.forward(&rows, compute)?; // (B · L', V)
        let logits = logits.reshape((batch, padded, logits.dim(1)?))?.narrow(1, 0, len)?;
        let first_logits = self.to_logits.forward(&first, compute)?;
        Ok(ForwardPass {
            training,
            starts,
            stages,
            rows,
            first,
            first_rows,
            logits,
            first_logits,
        })
    }
}

impl ForwardPass<'_> {
    /// Logits (B, L, V); row j predicts byte j + 1, as in [`Mblm::logits`].
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// The logits (B, V) of the first byte of each sample, which no input precedes.
    pub fn first_logits(&self) -> &Tensor {
        &self.first_logits
    }

    /// The outputs of the local stage (B, L, D_N), before the logits layer.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn hidden_states(&self) -> Result<Tensor> {
        let (batch, len, _) = self.logits.dims3()?;
        let (rows, dim) = self.rows.dims2()?;
        Ok(self.rows.reshape((batch, rows / batch, dim))?.narrow(1, 0, len)?)
    }

    /// Adds the gradients of all parameters, times the pass's scale, to `gradients`, given the
    /// gradients of the logits (B, L, V) and of the first logits (B, V).
    ///
    /// # Errors
    /// Tensors whose shapes differ from the shapes of the logits.
    pub fn backward(self, d_logits: &Tensor, d_first: Option<&Tensor>, gradients: &mut Gradients) -> Result<()> {
        let (training, model) = (&self.training, self.training.model);
        let scale = training.pass.scale;
        let like = |what: &str, gradient: &Tensor, logits: &Tensor| -> Result<Tensor> {
            match gradient.dims() == logits.dims() {
                true => Ok((gradient.to_dtype(logits.dtype())? * scale)?),
                false => Err(Error::input(format!(
                    "{what}: expected the gradient of logits of shape {:?}, found {:?}",
                    logits.dims(),
                    gradient.dims()
                ))),
            }
        };
        let d_logits = like("logits", d_logits, &self.logits)?;
        let (batch, len, vocabulary) = d_logits.dims3()?;
        let (padded, dim) = (training.ids.padded, self.rows.dim(1)?);
        let d_logits = d_logits.pad_with_zeros(1, 0, padded - len)?;
        let d_logits = d_logits.reshape((batch * padded, vocabulary))?;
        let mut sums = Sums::new(model.stages.len(), gradients);
        let (to_logits, compute) = (&model.to_logits, &training.pass.compute);
        let d_rows = to_logits.backward(&self.rows, &d_logits, compute, sums.gradients)?;
        let Some(local) = self.stages.last().map(|stage| stage.group) else {
            return Ok(());
        };
        let mut d_outputs = OutputGradients {
            before: None,
            y: d_rows.reshape((local.count, local.positions, dim))?,
        };
        if let Some(d_first) = d_first {
            let d_first = like("first logits", d_first, &self.first_logits)?;
            let d_first = to_logits.backward(&self.first, &d_first, compute, sums.gradients)?; // (B, D)
            match &self.first_rows {
                Some(first) => d_outputs.before = Some(first.spread(&local, &d_first)?),
                None => sums.starts[local.stage].add(Some(&d_first.unsqueeze(1)?), StateGradient::none())?,
            }
        }
        let mut stages = self.stages.into_iter().rev().peekable();
        while let Some(KeptStage { group, kept, .. }) = stages.next() {
            let d_context = training.backward(&group, kept, d_outputs, &mut sums)?;
            let Some(KeptStage {
                group,
                feed: Some(feed),
                ..
            }) = stages.peek()
            else {
                break;
            };
            let d_feed = training.contexts_backward(group.stage, feed, Some(d_context), &mut sums)?;
            d_outputs = training.feed_backward(group, vec![d_feed])?;
        }
        training.finish(self.starts, &mut sums)
    }
}
