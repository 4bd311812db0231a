//! A model of either kind, decoder or encoder, behind the calls that training and evaluation need.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use mblm_ops::cpu::on_workers;

use super::compute::Compute;
use super::decoder::Mblm;
use super::encoder::{MaskedBatch, MblmEncoder};
use super::gradients::Gradients;
use super::ids::ModelBatch;
use super::init::ParameterSource;
use super::init::Seeded;
use super::objective::CrossEntropy;
use super::parameter::Parameters;
use super::pass::{Loss, TrainingPass, Watch};
use crate::blocks::BlockRegistry;
use crate::config::{Architecture, ByteSize, Precision};
use crate::machine::memory::shortage;
use crate::{Error, Result};

/// A decoder or an encoder.
pub enum Model {
    /// Predicts each byte from the bytes before it.
    Decoder(Arc<Mblm>),
    /// Restores masked bytes from those around them.
    Encoder(Box<MblmEncoder>),
}

/// Fails if the weights exceed the CPU's memory, where the system would kill the process.
fn check_weights(architecture: &Architecture, device: &Device) -> Result<()> {
    let parameters = architecture.parameter_counts().total;
    let needed = parameters.saturating_mul(4); // float32
    match device.is_cpu().then(|| shortage(needed)).flatten() {
        None => Ok(()),
        Some(room) => Err(Error::OutOfMemory(format!(
            "the model's {parameters} parameters need {}, but only {} are available to this process; use a smaller \
             model, or a machine with more memory",
            ByteSize::b(needed),
            ByteSize::b(room)
        ))),
    }
}

impl Model {
    /// Creates a float32 model with parameters from `source`.
    ///
    /// # Errors
    /// Blocks that `registry` does not know, parameters missing in `source`, too little memory.
    pub fn new(
        architecture: &Architecture,
        registry: &BlockRegistry,
        source: &dyn ParameterSource,
        device: &Device,
    ) -> Result<Self> {
        check_weights(architecture, device)?;
        Ok(match architecture {
            Architecture::Decoder(config) => {
                Self::Decoder(Arc::new(Mblm::new(config, registry, source, DType::F32, device)?))
            }
            Architecture::Encoder(config) => {
                let mut config = config.clone();
                config.mblm_config.resolve(registry)?;
                Self::Encoder(Box::new(MblmEncoder::new(&config, source, DType::F32, device)?))
            }
        })
    }

    /// Creates a float32 model of built-in blocks.
    ///
    /// # Errors
    /// An invalid configuration.
    pub fn seeded(architecture: impl Into<Architecture>, seed: u64, device: &Device) -> Result<Self> {
        Self::new(&architecture.into(), &BlockRegistry::default(), &Seeded(seed), device)
    }

    /// The architecture of the model.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Decoder(model) => Architecture::Decoder(model.config().clone()),
            Self::Encoder(model) => Architecture::Encoder(model.config().clone()),
        }
    }

    /// All parameters.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Self::Decoder(model) => model.parameters(),
            Self::Encoder(model) => model.parameters(),
        }
    }

    /// The numeric settings for inference; a learner has its own.
    pub fn compute(&self) -> &Compute {
        match self {
            Self::Decoder(model) => model.compute(),
            Self::Encoder(model) => model.compute(),
        }
    }

    /// Sets the precision of inference on a GPU; a learner has its own. The default, and on the CPU
    /// the only precision, is float32.
    ///
    /// # Errors
    /// The decoder is shared: the precision of its other owners would change.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        let compute = Compute::for_use(precision, self.device());
        match self {
            Self::Decoder(model) => match Arc::get_mut(model) {
                Some(model) => model.set_compute(compute),
                None => {
                    return Err(Error::input(
                        "the model is shared: set its precision before a generator or another thread shares it",
                    ));
                }
            },
            Self::Encoder(model) => model.set_compute(compute),
        }
        Ok(())
    }

    /// Prepares a model for inference in `precision`: on a GPU as
    /// [`set_precision`](Self::set_precision) does. On the CPU, `Bf16` permanently rounds the
    /// weights of the linear layers, which halves the bytes read, and so the time, per decoded
    /// byte. All else stays float32, so the result does not depend on how many positions are
    /// computed at once.
    ///
    /// # Errors
    /// Those of [`set_precision`](Self::set_precision), and a failing device.
    pub fn use_in(&mut self, precision: Precision) -> Result<()> {
        let precision = precision.chosen(self.device());
        self.set_precision(precision)?;
        match self.device().is_cpu() && precision == Precision::Bf16 {
            true => self.parameters().round_weights(),
            false => Ok(()),
        }
    }

    /// The device that the parameters are on.
    pub fn device(&self) -> &Device {
        match self {
            Self::Decoder(model) => model.device(),
            Self::Encoder(model) => model.device(),
        }
    }

    /// Returns the decoder, or an error that names the purpose.
    pub fn decoder(&self, purpose: &str) -> Result<&Arc<Mblm>> {
        match self {
            Self::Decoder(model) => Ok(model),
            Self::Encoder(_) => Err(Error::input(format!(
                "{purpose} needs a decoder; this model is an encoder, which restores masked bytes"
            ))),
        }
    }

    /// Returns the loss of a batch without gradients.
    pub fn loss(&self, batch: &ModelBatch) -> Result<Loss> {
        on_workers(|| match self {
            Self::Decoder(model) => model.loss(batch, batch.loss_mask.as_deref()),
            Self::Encoder(model) => model.loss(&masked(batch)?),
        })
    }

    /// Returns the loss in nats of each id of a batch (B, L), unweighted, unmasked ids included.
    pub fn losses(&self, batch: &ModelBatch) -> Result<Tensor> {
        on_workers(|| match self {
            Self::Decoder(model) => model.losses(batch),
            Self::Encoder(model) => model.losses(&masked(batch)?),
        })
    }

    /// Returns the loss of a batch; adds its gradients to `gradients`.
    pub fn loss_and_gradients(
        &self,
        batch: &ModelBatch,
        pass: TrainingPass,
        gradients: &mut Gradients,
    ) -> Result<Loss> {
        Ok(self
            .timed_loss_and_gradients(batch, pass, gradients, Watch::default())?
            .0)
    }

    /// The same, with the time spent in backward passes; `watch` applies to passes in chunks.
    pub(crate) fn timed_loss_and_gradients(
        &self,
        batch: &ModelBatch,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<(Loss, Duration)> {
        on_workers(|| match self {
            Self::Decoder(model) => {
                let mask = batch.loss_mask.as_deref();
                model.timed_objective_and_gradients(batch.into(), mask, &CrossEntropy, pass, gradients, watch)
            }
            Self::Encoder(model) => model.timed_loss_and_gradients(&masked(batch)?, pass, gradients),
        })
    }
}

/// A batch as an encoder takes it.
fn masked(batch: &ModelBatch) -> Result<MaskedBatch<'_>> {
    match (&batch.labels, &batch.loss_mask) {
        (Some(labels), Some(loss_mask)) => Ok(MaskedBatch {
            ids: batch.into(),
            attention_mask: None,
            labels,
            loss_mask,
        }),
        _ => Err(Error::input(
            "an encoder trains on masked bytes: expected labels and a loss mask in the batch; use a masked data set such as \
             pg19masked",
        )),
    }
}
