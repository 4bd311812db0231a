//! The interface of trainable models: the loss of a batch and its gradients.
//!
//! A batch is ids; the model defines their meaning. [`Learner`](super::Learner) and
//! [`Trainer`](super::Trainer) train any [`Trainable`], from this library or custom.

use std::time::Duration;

use candle_core::Device;

use crate::Result;
use crate::checkpoint::atomic::NewFolder;
use crate::model::{Gradients, Loss, Model, ModelBatch, Parameters, TrainingPass, Watch};

/// A model that can be trained.
pub trait Trainable: Send + Sync {
    /// All parameters, always in the same order.
    fn parameters(&self) -> &Parameters;

    /// The device that the parameters are on.
    fn device(&self) -> &Device;

    /// Returns the loss of a batch, computed exactly and without dropout.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    fn evaluate(&self, batch: &ModelBatch) -> Result<BatchEvaluation>;

    /// Returns the loss of a batch and adds its gradients × `pass.scale` to `gradients`. Dropout
    /// masks depend on `pass.seed`.
    ///
    /// # Errors
    /// A batch that does not fit the model. With `watch.stop` set, a pass in chunks ends with
    /// [`Error::Stopped`](crate::Error::Stopped) and leaves `gradients` useless.
    fn differentiate(
        &self,
        batch: &ModelBatch,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<TimedLoss>;

    /// Writes the files of a model folder, from which the model can be opened.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn write(&self, folder: &mut NewFolder) -> Result<()>;
}

/// The evaluation of one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchEvaluation {
    /// The loss.
    pub loss: Loss,
    /// An additional metric, such as accuracy; the same one for every batch, or never any.
    pub metric: Option<Metric>,
}

/// A mean that is reported beside the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// The name in logs, such as `accuracy`.
    pub name: &'static str,
    /// The sum of the values.
    pub sum: f64,
    /// The number of values.
    pub count: usize,
}

/// The loss of a training batch, with the time of its backward passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedLoss {
    /// The loss.
    pub loss: Loss,
    /// The time spent in backward passes.
    pub backward: Duration,
}

impl Metric {
    /// The name of the share of correct predictions, which logs show in percent.
    pub const ACCURACY: &'static str = "accuracy";

    /// The mean; 0 if there are no values.
    pub fn value(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

impl Trainable for Model {
    fn parameters(&self) -> &Parameters {
        self.parameters()
    }

    fn device(&self) -> &Device {
        self.device()
    }

    fn evaluate(&self, batch: &ModelBatch) -> Result<BatchEvaluation> {
        Ok(BatchEvaluation {
            loss: self.loss(batch)?.with_weights(batch.loss_mask.as_deref()),
            metric: None,
        })
    }

    fn differentiate(
        &self,
        batch: &ModelBatch,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<TimedLoss> {
        let (loss, backward) = self.timed_loss_and_gradients(batch, pass, gradients, watch)?;
        let loss = loss.with_weights(batch.loss_mask.as_deref());
        Ok(TimedLoss { loss, backward })
    }

    fn write(&self, folder: &mut NewFolder) -> Result<()> {
        self.fill_folder(folder)
    }
}
