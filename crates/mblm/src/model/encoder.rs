//! The encoder: the same hierarchy without start tokens, bidirectional, for masked-byte training.
//!
//! The input of stage n is its embedded tokens plus the projection of all outputs of stage n − 1:
//! output i feeds sequence i. An attention mask (B, L) hides bytes; a patch of a higher stage is
//! visible if any (or all) of its bytes are. Padding bytes are hidden. Shapes as in the decoder.

use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use mblm_ops::{cross_entropy, widened};

use super::compute::Compute;
use super::encoder_walk::{EncoderStage, EncoderSums, EncoderTraining, Looking, Masked};
use super::gradients::Gradients;
use super::ids::{Ids, PaddedIds};
use super::init::{ParameterSource, Seeded};
use super::layers::Linear;
use super::parameter::{Builder, Parameters};
use super::pass::{Loss, TrainingPass};
use super::traverse::{Walk, group_size};
use crate::config::EncoderConfig;
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

/// A masked-byte batch: input ids, visibility, and the bytes to restore.
#[derive(Clone, Copy, Debug)]
pub struct MaskedBatch<'a> {
    /// Input ids (B, L), some replaced by the mask id.
    pub ids: Ids<'a>,
    /// Whether each id is visible; `None` = all are.
    pub attention_mask: Option<&'a [bool]>,
    /// The original ids, one for each.
    pub labels: &'a [u32],
    /// Weight of each id's loss; 0 for ids that are not to be restored.
    pub loss_mask: &'a [f32],
}

/// A checked batch, on the host.
struct Checked {
    masked: Masked,
    /// The original ids, (B · padded).
    labels: Vec<u32>,
    /// The weights of their losses, (B · padded).
    weights: Vec<f32>,
    /// Weights that are not 0.
    count: usize,
}

impl MblmEncoder {
    /// Creates a model with parameters from `source`.
    pub fn new(config: &EncoderConfig, source: &dyn ParameterSource, dtype: DType, device: &Device) -> Result<Self> {
        config.validate()?;
        let model = &config.mblm_config;
        let builder = Builder::new(source, dtype, device);
        let stages = (0..model.num_stages())
            .map(|index| EncoderStage::new(model, index, &builder))
            .collect::<Result<Vec<_>>>()?;
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

    /// Creates a float32 model.
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

    /// The numeric settings for inference; training passes bring their own.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Sets the numeric settings for inference; the default is exact.
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
        let batch = self.masked(ids.into(), attention_mask)?;
        let dim = self.stages[self.stages.len() - 1].dim;
        let (samples, len, padded) = (batch.ids.batch, batch.ids.len, batch.ids.padded);
        if samples == 0 || len == 0 {
            return Ok(Tensor::zeros((samples, len, dim), self.dtype, &self.device)?);
        }
        let positions = padded / self.stages[0].bytes;
        let mut walk = Walk::looking(&self.config.mblm_config, positions, &self.device);
        walk.levels[0].group = 1;
        let looking = Looking {
            stages: &self.stages,
            masked: &batch,
            compute: &self.compute,
        };
        let mut pieces = Vec::new();
        walk.all_samples(&looking, samples, &mut pieces)?;
        let rows = Tensor::cat(&pieces, 0)?.reshape((samples, padded, dim))?;
        Ok(rows.narrow(1, 0, len)?)
    }

    /// Returns the mean loss of restoring the masked bytes.
    pub fn loss(&self, batch: &MaskedBatch<'_>) -> Result<Loss> {
        let checked = self.checked(batch)?;
        if checked.count == 0 {
            return Ok(Loss::of_sum(0.0, 0));
        }
        let (len, padded) = (checked.masked.ids.len, checked.masked.ids.padded);
        let losses = self
            .losses_of(&checked, batch)?
            .to_dtype(DType::F32)?
            .to_vec2::<f32>()?;
        let mut sum = 0.0;
        for (losses, weights) in losses.iter().zip(checked.weights.chunks(padded)) {
            let counted = losses.iter().zip(&weights[..len]).filter(|(_, weight)| **weight != 0.0);
            sum += counted
                .map(|(loss, weight)| f64::from(*loss) * f64::from(*weight))
                .sum::<f64>();
        }
        Ok(Loss::of_sum(sum, checked.count))
    }

    /// Returns the loss in nats of restoring each byte (B, L), unweighted, unmasked bytes included.
    pub fn losses(&self, batch: &MaskedBatch<'_>) -> Result<Tensor> {
        self.losses_of(&self.checked(batch)?, batch)
    }

    fn losses_of(&self, checked: &Checked, batch: &MaskedBatch<'_>) -> Result<Tensor> {
        let ids = &checked.masked.ids;
        let (samples, len, padded) = (ids.batch, ids.len, ids.padded);
        if samples == 0 || len == 0 {
            return Ok(Tensor::zeros((samples, len), self.dtype, &self.device)?);
        }
        let logits = self.logits(batch.ids, batch.attention_mask)?; // (B, L, V)
        let losses = (0..samples)
            .map(|sample| {
                let labels = &checked.labels[sample * padded..sample * padded + len];
                let labels = Tensor::from_slice(labels, len, &self.device)?;
                cross_entropy::losses(&widened(&logits.get(sample)?)?, &labels).map_err(Error::from)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&losses, 0)?)
    }

    /// Returns the mean loss of the masked bytes; adds its gradients, times `pass.scale`.
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
        let Checked {
            masked,
            labels,
            weights,
            count,
        } = self.checked(batch)?;
        if count == 0 {
            return Ok((Loss::of_sum(0.0, 0), Duration::ZERO));
        }
        let (samples, positions) = (masked.ids.batch, masked.ids.padded / self.stages[0].bytes);
        let config = &self.config.mblm_config;
        let mut walk = Walk::training(config, positions, samples, pass.chunking, &self.device);
        walk.levels[0].group = group_size(positions, &self.device);
        let training = EncoderTraining {
            stages: &self.stages,
            to_logits: &self.to_logits,
            masked: &masked,
            labels: &labels,
            weights: &weights,
            scale: pass.scale / count as f64,
            pass: &pass,
        };
        let mut sums = EncoderSums::new(gradients);
        walk.all_samples(&training, samples, &mut sums)?;
        Ok((Loss::of_sum(sums.loss()?, count), sums.backward))
    }

    fn masked(&self, ids: Ids<'_>, attention_mask: Option<&[bool]>) -> Result<Masked> {
        let ids = PaddedIds::new(&self.config.mblm_config, ids, &self.device)?;
        let visible = match attention_mask {
            Some(mask) => ids.per_byte("attention mask", mask, false)?,
            None => (0..ids.batch * ids.padded)
                .map(|byte| byte % ids.padded < ids.len)
                .collect(),
        };
        Ok(Masked {
            ids,
            visible,
            reduce: self.config.mask_reduce_strat,
        })
    }

    fn checked(&self, batch: &MaskedBatch<'_>) -> Result<Checked> {
        let masked = self.masked(batch.ids, batch.attention_mask)?;
        let labels = masked.ids.labels(&self.config.mblm_config, batch.labels)?;
        let weights = masked.ids.per_byte("loss mask", batch.loss_mask, 0.0)?;
        Ok(Checked {
            count: weights.iter().filter(|weight| **weight != 0.0).count(),
            masked,
            labels,
            weights,
        })
    }
}
