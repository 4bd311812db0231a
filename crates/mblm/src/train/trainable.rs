//! What can be trained: a model that gives the loss of a batch and the gradients of that loss.
//!
//! A batch is ids; what they mean is the model's own. [`Learner`](super::Learner) and [`Trainer`](super::Trainer) train whatever implements
//! [`Trainable`]: the models of this library do, and so can a model of one's own.

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

    /// The loss of a batch, computed exactly and without dropout.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    fn evaluate(&self, batch: &ModelBatch) -> Result<BatchEvaluation>;

    /// The loss of a batch, whose gradients × `pass.scale` are added to `gradients`. Dropout masks depend on `pass.seed`.
    ///
    /// # Errors
    /// A batch that does not fit the model. A pass that goes in chunks ends with [`Error::Stopped`](crate::Error::Stopped) once
    /// `watch.stop` is set; what it has added to `gradients` is then of no use.
    fn differentiate(
        &self,
        batch: &ModelBatch,
        pass: TrainingPass,
        gradients: &mut Gradients,
        watch: Watch<'_>,
    ) -> Result<TimedLoss>;

    /// Writes the files of a model folder, from which the model can be opened again.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn write(&self, folder: &mut NewFolder) -> Result<()>;
}

/// What the evaluation of one batch found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchEvaluation {
    /// The loss.
    pub loss: Loss,
    /// What else is measured, such as the share of right answers; of every batch the same, or of none.
    pub metric: Option<Metric>,
}

/// A mean that is reported beside the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name in logs, such as `accuracy`.
    pub name: &'static str,
    /// The sum over what it is a mean of.
    pub sum: f64,
    /// How many those are.
    pub count: usize,
}

/// The loss of a training batch, and how long its backward passes took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimedLoss {
    /// The loss.
    pub loss: Loss,
    /// The time spent in backward passes.
    pub backward: Duration,
}

impl Metric {
    /// The name of a share of right answers, which logs show in percent.
    pub const ACCURACY: &'static str = "accuracy";

    /// The mean; 0 over nothing.
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
