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
use crate::machine::memory::room;
use crate::{Error, Result};

/// A decoder or an encoder.
pub enum Model {
    /// Predicts each byte from the bytes before it.
    Decoder(Arc<Mblm>),
    /// Restores masked bytes from those around them.
    Encoder(Box<MblmEncoder>),
}

/// Weights of fewer bytes are not compared with the memory there is, which takes longer to find than they take to make.
const SMALL: u64 = 64 << 20;

/// Fails where the weights alone are larger than the memory there is: the process would be ended in the middle. A GPU says so itself.
fn check_weights(architecture: &Architecture, device: &Device) -> Result<()> {
    let parameters = architecture.parameter_counts().total;
    let needed = parameters.saturating_mul(4); // float32
    if !device.is_cpu() || needed < SMALL {
        return Ok(());
    }
    let room = room();
    match needed > room {
        false => Ok(()),
        true => Err(Error::OutOfMemory(format!(
            "the model's {parameters} parameters need {}, but this process can take {}; use a smaller model, or a machine with more \
             memory",
            ByteSize::b(needed),
            ByteSize::b(room)
        ))),
    }
}

impl Model {
    /// A float32 model whose parameters come from `source`.
    ///
    /// # Errors
    /// Blocks that `registry` does not know, parameters that `source` does not have, and a model that is larger than the memory there is.
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

    /// A new float32 model of built-in blocks.
    ///
    /// # Errors
    /// A configuration that no model can have.
    pub fn seeded(architecture: impl Into<Architecture>, seed: u64, device: &Device) -> Result<Self> {
        Self::new(&architecture.into(), &BlockRegistry::default(), &Seeded(seed), device)
    }

    /// What the model was made from.
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

    /// How the model computes where it is only used: a learner has its own way.
    pub fn compute(&self) -> &Compute {
        match self {
            Self::Decoder(model) => model.compute(),
            Self::Encoder(model) => model.compute(),
        }
    }

    /// Sets the precision in which the model computes where it is only used, on a GPU; a learner has its own. On the CPU that is
    /// always float32, as at first on every device.
    ///
    /// # Errors
    /// A decoder that others hold as well: they would compute otherwise all of a sudden.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        let compute = Compute::for_use(precision, self.device());
        match self {
            Self::Decoder(model) => match Arc::get_mut(model) {
                Some(model) => model.set_compute(compute),
                None => {
                    return Err(Error::input(
                        "the model is shared: set its precision before a generator or another thread holds it",
                    ));
                }
            },
            Self::Encoder(model) => model.set_compute(compute),
        }
        Ok(())
    }

    /// Prepares a model that is only used for `precision`: on a GPU as [`set_precision`](Self::set_precision) does. On the CPU, where a
    /// byte's time is that of reading the weights, `Bf16` rounds the weights of the linear layers, for good, and reads half as much; all
    /// else stays float32, so that it does not matter how many positions are computed at once.
    ///
    /// # Errors
    /// As [`set_precision`](Self::set_precision), and a failing device.
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

    /// The decoder, or an error that says what needs one.
    pub fn decoder(&self, purpose: &str) -> Result<&Arc<Mblm>> {
        match self {
            Self::Decoder(model) => Ok(model),
            Self::Encoder(_) => Err(Error::input(format!(
                "{purpose} needs a decoder; this model is an encoder, which restores masked bytes"
            ))),
        }
    }

    /// The loss of a batch without gradients.
    pub fn loss(&self, batch: &ModelBatch) -> Result<Loss> {
        on_workers(|| match self {
            Self::Decoder(model) => model.loss(batch, batch.loss_mask.as_deref()),
            Self::Encoder(model) => model.loss(&masked(batch)?),
        })
    }

    /// The loss in nats of each id of a batch (B, L), unweighted; an encoder's where nothing is masked too.
    pub fn losses(&self, batch: &ModelBatch) -> Result<Tensor> {
        on_workers(|| match self {
            Self::Decoder(model) => model.losses(batch),
            Self::Encoder(model) => model.losses(&masked(batch)?),
        })
    }

    /// The loss of a batch; adds its gradients to `gradients`.
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

    /// The same, with the time spent in backward passes; `watch` is for passes in chunks.
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
