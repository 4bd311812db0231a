//! The encoder: the same hierarchy without start tokens, bidirectional, for masked-byte training.
//!
//! Stage n sees its embedded tokens plus the projection of all outputs of stage n − 1: output i feeds sequence i. An
//! attention mask (B, L) hides bytes; a patch of a higher stage is visible if any (or all) of its bytes are. Bytes added to
//! fill the last patch are hidden. Shapes as in the decoder.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use mblm_ops::{cross_entropy, widened};

use super::backward::{Loss, TrainingPass, total};
use super::block::Pass;
use super::compute::Compute;
use super::decoder::{even_groups, group_size, training_groups};
use super::embedding::TokenEmbedding;
use super::encoder_block::EncoderBlock;
use super::gradients::Gradients;
use super::ids::{Ids, PaddedIds};
use super::init::ParameterSource;
use super::init::Seeded;
use super::layers::Linear;
use super::parameter::{Builder, Parameters};
use crate::blocks::BlockArgs;
use crate::config::{EncoderConfig, MaskReduce};
use crate::{Error, Result};

/// A masked-byte model.
pub struct MblmEncoder {
    config: EncoderConfig,
    stages: Vec<EncoderStage>,
    to_logits: Linear,
    parameters: Parameters,
    device: Device,
    dtype: DType,
    compute: Compute,
}

struct EncoderStage {
    embedding: TokenEmbedding,
    block: Box<dyn EncoderBlock>,
    to_next: Option<Linear>,
    positions: usize,
    bytes: usize,
    dim: usize,
}

/// A masked-byte batch: what the model reads, what it may see, and what it is to restore.
#[derive(Clone, Copy, Debug)]
pub struct MaskedBatch<'a> {
    /// Ids (B, L) as the model reads them, some replaced by the mask id.
    pub ids: Ids<'a>,
    /// Which ids may be seen, one for each; `None` = all.
    pub attention_mask: Option<&'a [bool]>,
    /// The original ids, one for each.
    pub labels: &'a [u32],
    /// Weight of the loss at each id; 0 where nothing is to be restored.
    pub loss_mask: &'a [f32],
}

/// A batch with its masks on the host.
struct Checked {
    ids: PaddedIds,
    /// Visibility of each byte, (B · padded).
    visible: Vec<bool>,
}

struct Run<'a> {
    model: &'a MblmEncoder,
    batch: Checked,
    labels: Vec<u32>,
    weights: Vec<f32>,
    count: usize,
    pass: TrainingPass,
    /// Sequences of a group, for each stage.
    groups: Vec<usize>,
    losses: Vec<Tensor>,
    /// Time spent in backward passes.
    backward: Duration,
}

impl MblmEncoder {
    /// A model whose parameters come from `source`.
    pub fn new(config: &EncoderConfig, source: &dyn ParameterSource, dtype: DType, device: &Device) -> Result<Self> {
        config.validate()?;
        let model = &config.mblm_config;
        let builder = Builder::new(source, dtype, device);
        let mut stages = Vec::with_capacity(model.num_stages());
        for index in 0..model.num_stages() {
            let dim = model.hidden_dims[index];
            let scope = builder.scope("stage_models").scope(index);
            let to_next = if index + 1 < model.num_stages() {
                let scope = builder.scope("to_next_stage_proj").scope(index).scope(1);
                let width = model.hidden_dims[index + 1] * model.seq_lens[index + 1];
                Some(Linear::new(&scope, dim, width)?)
            } else {
                None
            };
            stages.push(EncoderStage {
                embedding: TokenEmbedding::new(model, index, &builder)?,
                block: model.block[index].build_encoder(&BlockArgs::new(dim, model.num_layers[index], &scope))?,
                to_next,
                positions: model.seq_lens[index],
                bytes: model.patch_bytes(index),
                dim,
            });
        }
        let local_dim = model.hidden_dims[model.num_stages() - 1];
        Ok(Self {
            config: config.clone(),
            stages,
            to_logits: Linear::new(&builder.scope("to_logits"), local_dim, model.num_tokens)?,
            parameters: builder.parameters(),
            device: device.clone(),
            dtype,
            compute: Compute::default(),
        })
    }

    /// A new float32 model.
    pub fn seeded(config: &EncoderConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::new(config, &Seeded(seed), DType::F32, device)
    }

    /// The configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// All parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The device that the parameters are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the model computes where it is only used; training passes bring their own.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Lets the model compute like that where it is only used; exactly at first.
    pub fn set_compute(&mut self, compute: Compute) {
        self.compute = compute;
    }

    /// Logits (B, L, V) of the byte at each position.
    pub fn logits<'a>(&self, ids: impl Into<Ids<'a>>, attention_mask: Option<&[bool]>) -> Result<Tensor> {
        self.to_logits
            .forward(&self.hidden_states(ids, attention_mask)?, &self.compute)
    }

    /// The outputs of the local stage (B, L, D_N), before the logits layer.
    pub fn hidden_states<'a>(&self, ids: impl Into<Ids<'a>>, attention_mask: Option<&[bool]>) -> Result<Tensor> {
        let batch = self.checked(ids.into(), attention_mask)?;
        let dim = self.stages[self.stages.len() - 1].dim;
        let (samples, len, padded) = (batch.ids.batch, batch.ids.len, batch.ids.padded);
        if samples == 0 || len == 0 {
            return Ok(Tensor::zeros((samples, len, dim), self.dtype, &self.device)?);
        }
        let mut pieces = Vec::new();
        let positions = padded / self.stages[0].bytes;
        for first in 0..samples {
            self.rows(&batch, 0, first, 1, positions, None, &mut pieces)?;
        }
        let rows = Tensor::cat(&pieces, 0)?.reshape((samples, padded, dim))?;
        Ok(rows.narrow(1, 0, len)?)
    }

    /// The mean loss of restoring the marked bytes.
    pub fn loss(&self, batch: &MaskedBatch<'_>) -> Result<Loss> {
        let run = Run::new(self, batch, TrainingPass::default())?;
        if run.count == 0 {
            return Ok(Loss::mean(0.0, 0));
        }
        let (len, padded) = (run.batch.ids.len, run.batch.ids.padded);
        let losses = self.losses_of(&run, batch)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let mut sum = 0.0;
        for (losses, weights) in losses.iter().zip(run.weights.chunks(padded)) {
            let counted = losses.iter().zip(&weights[..len]).filter(|(_, weight)| **weight != 0.0);
            sum += counted
                .map(|(loss, weight)| f64::from(*loss) * f64::from(*weight))
                .sum::<f64>();
        }
        Ok(Loss::mean(sum, run.count))
    }

    /// The loss in nats of restoring each byte (B, L), unweighted, also of those that are not masked.
    pub fn losses(&self, batch: &MaskedBatch<'_>) -> Result<Tensor> {
        self.losses_of(&Run::new(self, batch, TrainingPass::default())?, batch)
    }

    fn losses_of(&self, run: &Run<'_>, batch: &MaskedBatch<'_>) -> Result<Tensor> {
        let (samples, len, padded) = (run.batch.ids.batch, run.batch.ids.len, run.batch.ids.padded);
        if samples == 0 || len == 0 {
            return Ok(Tensor::zeros((samples, len), self.dtype, &self.device)?);
        }
        let logits = self.logits(batch.ids, batch.attention_mask)?; // (B, L, V)
        let losses = (0..samples)
            .map(|sample| {
                let labels = &run.labels[sample * padded..sample * padded + len];
                let labels = Tensor::from_slice(labels, len, &self.device)?;
                cross_entropy::losses(&widened(&logits.get(sample)?)?, &labels).map_err(Error::from)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&losses, 0)?)
    }

    /// The mean loss of restoring the marked bytes; adds its gradients, times `pass.scale`, to `gradients`.
    pub fn loss_and_gradients(
        &self,
        batch: &MaskedBatch<'_>,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<Loss> {
        Ok(self.timed_loss_and_gradients(batch, pass, gradients)?.0)
    }

    /// The same, with the time spent in backward passes.
    pub(super) fn timed_loss_and_gradients(
        &self,
        batch: &MaskedBatch<'_>,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<(Loss, Duration)> {
        let mut run = Run::new(self, batch, pass)?;
        if run.count == 0 {
            return Ok((Loss::mean(0.0, 0), Duration::ZERO));
        }
        let positions = run.batch.ids.padded / self.stages[0].bytes;
        let group = even_groups(run.batch.ids.batch, group_size(positions, &self.device));
        for first in (0..run.batch.ids.batch).step_by(group) {
            let count = group.min(run.batch.ids.batch - first);
            run.stage(0, first, count, positions, None, gradients)?;
        }
        Ok((Loss::mean(total(&run.losses)?, run.count), run.backward))
    }

    fn checked(&self, ids: Ids<'_>, attention_mask: Option<&[bool]>) -> Result<Checked> {
        let ids = PaddedIds::new(&self.config.mblm_config, ids, &self.device)?;
        let visible = match attention_mask {
            Some(mask) => ids.per_byte("attention mask", mask, false)?,
            None => (0..ids.batch * ids.padded)
                .map(|byte| byte % ids.padded < ids.len)
                .collect(),
        };
        Ok(Checked { ids, visible })
    }

    /// The visible positions (count, positions) of a group of sequences, or `None` when all are.
    fn visible(
        &self,
        batch: &Checked,
        index: usize,
        first: usize,
        count: usize,
        positions: usize,
    ) -> Result<Option<Tensor>> {
        let bytes = self.stages[index].bytes;
        let range = first * positions * bytes..(first + count) * positions * bytes;
        let visible: Vec<u8> = batch.visible[range]
            .chunks(bytes)
            .map(|patch| match self.config.mask_reduce_strat {
                MaskReduce::Any => u8::from(patch.contains(&true)),
                MaskReduce::All => u8::from(!patch.contains(&false)),
            })
            .collect();
        if !visible.contains(&0) {
            return Ok(None);
        }
        Ok(Some(Tensor::from_vec(visible, (count, positions), &self.device)?))
    }

    fn rows(
        &self,
        batch: &Checked,
        index: usize,
        first: usize,
        count: usize,
        positions: usize,
        context: Option<&Tensor>,
        out: &mut Vec<Tensor>,
    ) -> Result<()> {
        let stage = &self.stages[index];
        let ids = batch.ids.sequences(first, count, positions, stage.bytes)?;
        let mut x = stage.embedding.forward(&ids, 0, &self.compute)?; // (count, positions, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let visible = self.visible(batch, index, first, count, positions)?;
        let y = stage.block.encode(&x, visible.as_ref(), &self.compute)?;
        let feed = y.reshape((count * positions, stage.dim))?;
        let (Some(next), Some(to_next)) = (self.stages.get(index + 1), &stage.to_next) else {
            out.push(feed);
            return Ok(());
        };
        let group = even_groups(count * positions, group_size(next.positions, &self.device));
        for row in (0..count * positions).step_by(group) {
            let sequences = group.min(count * positions - row);
            let context = to_next.forward(&feed.narrow(0, row, sequences)?, &self.compute)?;
            let context = context.reshape((sequences, next.positions, next.dim))?;
            let first = first * positions + row;
            self.rows(batch, index + 1, first, sequences, next.positions, Some(&context), out)?;
        }
        Ok(())
    }
}

impl<'a> Run<'a> {
    fn new(model: &'a MblmEncoder, batch: &MaskedBatch<'_>, pass: TrainingPass) -> Result<Self> {
        let checked = model.checked(batch.ids, batch.attention_mask)?;
        let labels = checked.ids.labels(&model.config.mblm_config, batch.labels)?;
        let weights = checked.ids.per_byte("loss mask", batch.loss_mask, 0.0)?;
        Ok(Self {
            model,
            groups: training_groups(
                &model.config.mblm_config,
                (checked.ids.host.len(), checked.ids.padded / model.stages[0].bytes),
                pass.chunking,
                &model.device,
            ),
            count: weights.iter().filter(|weight| **weight != 0.0).count(),
            batch: checked,
            labels,
            weights,
            pass,
            losses: Vec::new(),
            backward: Duration::ZERO,
        })
    }

    /// One group of sequences and everything below, forward and backward; the gradient of `context`.
    fn stage(
        &mut self,
        index: usize,
        first: usize,
        count: usize,
        positions: usize,
        context: Option<&Tensor>,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let (model, compute) = (self.model, &self.pass.compute.clone());
        let stage = &model.stages[index];
        let bytes = first * positions * stage.bytes..(first + count) * positions * stage.bytes;
        if self.weights[bytes].iter().all(|weight| *weight == 0.0) {
            return Ok(None);
        }
        let ids = self.batch.ids.sequences(first, count, positions, stage.bytes)?;
        let (mut x, embedded) = stage.embedding.forward_train(&ids, 0, compute)?; // (count, positions, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let visible = model.visible(&self.batch, index, first, count, positions)?;
        let pass = Pass {
            seed: self.pass.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64,
            first_sequence: first,
            keeps_state: false,
        };
        let (y, saved) = stage.block.encode_train(&x, visible.as_ref(), &pass, compute)?;
        let rows = y.reshape((count * positions, stage.dim))?;
        let d_rows = self.below(index, first * positions, &rows, gradients)?;
        let d_y = d_rows.reshape((count, positions, stage.dim))?;
        let begun = Instant::now();
        let dx = stage.block.encode_backward(saved, &d_y, compute, gradients)?;
        stage.embedding.backward(embedded, &dx, compute, gradients)?;
        self.backward += begun.elapsed();
        Ok(Some(dx))
    }

    /// The gradient of a group's outputs (rows, D), the first of which is row `first` of the stage.
    fn below(&mut self, index: usize, first: usize, rows: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        let (model, compute) = (self.model, &self.pass.compute.clone());
        let count = rows.dim(0)?;
        let (Some(next), Some(to_next)) = (model.stages.get(index + 1), &model.stages[index].to_next) else {
            let logits = model.to_logits.forward(rows, compute)?; // (rows, V)
            let labels = Tensor::from_slice(&self.labels[first..first + count], count, rows.device())?;
            let weights = Tensor::from_slice(&self.weights[first..first + count], count, rows.device())?;
            let scale = self.pass.scale / self.count as f64;
            let (loss, d_logits) = cross_entropy::loss_and_gradient(&logits, &labels, &weights, scale)?;
            self.losses.push(loss);
            let begun = Instant::now();
            let d_rows = model.to_logits.backward(rows, &d_logits, compute, gradients);
            self.backward += begun.elapsed();
            return d_rows;
        };
        let group = even_groups(count, self.groups[index + 1]);
        let mut pieces = Vec::new();
        for row in (0..count).step_by(group) {
            let sequences = group.min(count - row);
            let feed = rows.narrow(0, row, sequences)?;
            let context = to_next.forward(&feed, compute)?;
            let context = context.reshape((sequences, next.positions, next.dim))?;
            let d_context = self.stage(
                index + 1,
                first + row,
                sequences,
                next.positions,
                Some(&context),
                gradients,
            )?;
            pieces.push(match d_context {
                Some(d_context) => {
                    let d_context = d_context.reshape((sequences, next.positions * next.dim))?;
                    let begun = Instant::now();
                    let d_feed = to_next.backward(&feed, &d_context, compute, gradients)?;
                    self.backward += begun.elapsed();
                    d_feed
                }
                None => feed.zeros_like()?,
            });
        }
        Ok(Tensor::cat(&pieces, 0)?)
    }
}
