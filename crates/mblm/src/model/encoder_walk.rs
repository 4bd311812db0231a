//! The visitors of an encoder: one evaluates, one trains.
//!
//! Output i of a stage feeds sequence i of the next: no start row, no shift by one position.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use mblm_ops::cross_entropy;

use super::block::{Pass, Saved};
use super::compute::Compute;
use super::embedding::{self, TokenEmbedding};
use super::encoder_block::EncoderBlock;
use super::gradients::Gradients;
use super::ids::PaddedIds;
use super::layers::Linear;
use super::parameter::Builder;
use super::pass::{TrainingPass, total};
use super::traverse::{Group, Look, Visitor};
use crate::Result;
use crate::blocks::BlockArgs;
use crate::config::{MaskReduce, ModelConfig};

/// One stage of an encoder.
pub(super) struct EncoderStage {
    embedding: TokenEmbedding,
    block: Box<dyn EncoderBlock>,
    /// Projection to the contexts of the next stage's sequence; `None` for the local stage.
    to_next: Option<Linear>,
    /// Positions of a sequence.
    positions: usize,
    /// Bytes of a position.
    pub(super) bytes: usize,
    pub(super) dim: usize,
}

impl EncoderStage {
    pub(super) fn new(model: &ModelConfig, index: usize, builder: &Builder<'_>) -> Result<Self> {
        let dim = model.hidden_dims[index];
        let scope = builder.scope("stage_models").scope(index);
        let to_next = if index + 1 < model.num_stages() {
            let scope = builder.scope("to_next_stage_proj").scope(index).scope(1);
            let width = model.hidden_dims[index + 1] * model.seq_lens[index + 1];
            Some(Linear::new(&scope, dim, width)?)
        } else {
            None
        };
        Ok(Self {
            embedding: TokenEmbedding::new(model, index, builder)?,
            block: model.block[index].build_encoder(&BlockArgs::new(dim, model.num_layers[index], &scope))?,
            to_next,
            positions: model.seq_lens[index],
            bytes: model.patch_bytes(index),
            dim,
        })
    }

    fn to_next(&self) -> &Linear {
        self.to_next
            .as_ref()
            .expect("every stage but the local one is made with it")
    }
}

/// The contexts (m, P, D) of the sequences of the stage after `stage`.
fn contexts(stages: &[EncoderStage], stage: usize, feed: &Tensor, compute: &Compute) -> Result<Tensor> {
    let next = &stages[stage + 1];
    let contexts = stages[stage].to_next().forward(feed, compute)?;
    Ok(contexts.reshape((feed.dim(0)?, next.positions, next.dim))?)
}

/// Ids with their visibility.
pub(super) struct Masked {
    pub(super) ids: PaddedIds,
    /// Visibility of each byte, (B · padded).
    pub(super) visible: Vec<bool>,
    /// Whether any or all bytes of a patch must be visible for the patch to be visible.
    pub(super) reduce: MaskReduce,
}

impl Masked {
    /// The visible positions (count, positions) of a group, or `None` when all are.
    fn visible(&self, group: &Group, bytes: usize) -> Result<Option<Tensor>> {
        let range = group.row * bytes..(group.row + group.rows()) * bytes;
        let visible: Vec<u8> = self.visible[range]
            .chunks(bytes)
            .map(|patch| match self.reduce {
                MaskReduce::Any => u8::from(patch.contains(&true)),
                MaskReduce::All => u8::from(!patch.contains(&false)),
            })
            .collect();
        if !visible.contains(&0) {
            return Ok(None);
        }
        let shape = (group.count, group.positions);
        Ok(Some(Tensor::from_vec(visible, shape, self.ids.tensor.device())?))
    }

    fn ids_of(&self, group: &Group, bytes: usize) -> Result<Tensor> {
        self.ids.sequences(group.first, group.count, group.positions, bytes)
    }
}

/// The evaluation visitor: collects the outputs of the local stage, in pieces (rows, D).
pub(super) struct Looking<'a> {
    pub(super) stages: &'a [EncoderStage],
    pub(super) masked: &'a Masked,
    pub(super) compute: &'a Compute,
}

impl Look for Looking<'_> {
    /// (n, t, D).
    type Outputs = Tensor;
    type Sums<'s> = Vec<Tensor>;

    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Tensor> {
        let stage = &self.stages[group.stage];
        let ids = self.masked.ids_of(group, stage.bytes)?;
        let mut x = stage.embedding.forward(&ids, 0, self.compute)?; // (n, t, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let visible = self.masked.visible(group, stage.bytes)?;
        stage.block.encode(&x, visible.as_ref(), self.compute)
    }

    fn feed(&self, group: &Group, y: &Tensor) -> Result<Tensor> {
        Ok(y.reshape((group.rows(), self.stages[group.stage].dim))?)
    }

    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor> {
        contexts(self.stages, stage, feed, self.compute)
    }

    fn local(&self, group: &Group, y: &Tensor, pieces: &mut Vec<Tensor>) -> Result<()> {
        pieces.push(Look::feed(self, group, y)?);
        Ok(())
    }
}

/// The training visitor: restores bytes and computes gradients.
pub(super) struct EncoderTraining<'a> {
    pub(super) stages: &'a [EncoderStage],
    pub(super) to_logits: &'a Linear,
    pub(super) masked: &'a Masked,
    /// The original ids, (B · padded).
    pub(super) labels: &'a [u32],
    /// The weights of their losses, (B · padded).
    pub(super) weights: &'a [f32],
    /// Factor on the gradient of the summed loss.
    pub(super) scale: f64,
    pub(super) pass: &'a TrainingPass,
}

/// The sums over the groups of a pass.
pub(super) struct EncoderSums<'g> {
    gradients: &'g mut Gradients,
    losses: Vec<Tensor>,
    /// Time spent in backward passes.
    pub(super) backward: Duration,
}

impl<'g> EncoderSums<'g> {
    pub(super) fn new(gradients: &'g mut Gradients) -> Self {
        Self {
            gradients,
            losses: Vec::new(),
            backward: Duration::ZERO,
        }
    }

    /// The summed loss.
    pub(super) fn loss(&self) -> Result<f64> {
        total(&self.losses)
    }
}

/// The values of a group's forward pass that its backward pass needs.
pub(super) struct EncoderKept {
    embedded: embedding::Saved,
    block: Saved,
}

impl Visitor for EncoderTraining<'_> {
    /// (n, t, D).
    type Outputs = Tensor;
    type Kept = EncoderKept;
    type OutputGradients = Tensor;
    type Gradient = Tensor;
    type Sums<'s> = EncoderSums<'s>;

    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Option<(Tensor, EncoderKept)>> {
        let (stage, compute) = (&self.stages[group.stage], &self.pass.compute);
        let bytes = group.row * stage.bytes..(group.row + group.rows()) * stage.bytes;
        if self.weights[bytes].iter().all(|weight| *weight == 0.0) {
            return Ok(None);
        }
        let ids = self.masked.ids_of(group, stage.bytes)?;
        let (mut x, embedded) = stage.embedding.forward_train(&ids, 0, compute)?; // (n, t, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let visible = self.masked.visible(group, stage.bytes)?;
        let pass = Pass {
            seed: self.pass.seed_of(group.stage),
            first_sequence: group.first,
            keeps_state: false,
        };
        let (y, block) = stage.block.encode_train(&x, visible.as_ref(), &pass, compute)?;
        Ok(Some((y, EncoderKept { embedded, block })))
    }

    fn feed(&self, group: &Group, y: &Tensor) -> Result<Tensor> {
        Ok(y.reshape((group.rows(), self.stages[group.stage].dim))?)
    }

    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor> {
        contexts(self.stages, stage, feed, &self.pass.compute)
    }

    fn local(&self, group: &Group, y: &Tensor, sums: &mut EncoderSums<'_>) -> Result<Tensor> {
        let compute = &self.pass.compute;
        let rows = self.feed(group, y)?;
        let range = group.row..group.row + group.rows();
        let logits = self.to_logits.forward(&rows, compute)?; // (rows, V)
        let labels = Tensor::from_slice(&self.labels[range.clone()], group.rows(), rows.device())?;
        let weights = Tensor::from_slice(&self.weights[range], group.rows(), rows.device())?;
        let (loss, d_logits) = cross_entropy::loss_and_gradient(&logits, &labels, &weights, self.scale)?;
        sums.losses.push(loss);
        let begun = Instant::now();
        let d_rows = self.to_logits.backward(&rows, &d_logits, compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(d_rows.reshape(y.dims3()?)?)
    }

    fn contexts_backward(
        &self,
        stage: usize,
        feed: &Tensor,
        d_contexts: Option<Tensor>,
        sums: &mut EncoderSums<'_>,
    ) -> Result<Tensor> {
        let Some(d_contexts) = d_contexts else {
            return Ok(feed.zeros_like()?);
        };
        let (sequences, positions, dim) = d_contexts.dims3()?;
        let d_contexts = d_contexts.reshape((sequences, positions * dim))?;
        let to_next = self.stages[stage].to_next();
        let begun = Instant::now();
        let d_feed = to_next.backward(feed, &d_contexts, &self.pass.compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(d_feed)
    }

    fn feed_backward(&self, group: &Group, pieces: Vec<Tensor>) -> Result<Tensor> {
        let d_feed = Tensor::cat(&pieces, 0)?;
        Ok(d_feed.reshape((group.count, group.positions, self.stages[group.stage].dim))?)
    }

    fn backward(&self, group: &Group, kept: EncoderKept, d_y: Tensor, sums: &mut EncoderSums<'_>) -> Result<Tensor> {
        let (stage, compute) = (&self.stages[group.stage], &self.pass.compute);
        let begun = Instant::now();
        let dx = stage.block.encode_backward(kept.block, &d_y, compute, sums.gradients)?;
        stage.embedding.backward(kept.embedded, &dx, compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(dx)
    }
}
