//! The decoder: a hierarchy of causal stages over bytes.
//!
//! Stage 1 reads whole patches, the local stage (N) single bytes. The outputs of each stage,
//! shifted by one position, are the contexts of the next stage's sequences (see [`Stage`]). Rows of
//! the local stage are flattened over all patches: row j of a sample is the output after byte j and
//! predicts byte j + 1, also across patch borders. The local start row predicts byte 0.
//!
//! Shapes: ids (B, L), padded to L' = P1' · P_2 · … · P_N; stage n has B · P1' · … · P_{n−1}
//! sequences of P_n positions; rows (B · L', D_N).

use candle_core::{DType, Device, Tensor};

use super::compute::Compute;
use super::ids::{Ids, PaddedIds};
use super::init::{ParameterSource, Seeded};
use super::layers::Linear;
use super::parameter::{Builder, Parameters};
use super::stage::Stage;
use super::state::State;
use crate::blocks::BlockRegistry;
use crate::config::ModelConfig;
use crate::{Error, Result};

/// A decoder: the Multiscale Byte Language Model (arXiv 2502.14553).
pub struct Mblm {
    pub(super) config: ModelConfig,
    pub(super) stages: Vec<Stage>,
    pub(super) to_logits: Linear,
    parameters: Parameters,
    device: Device,
    dtype: DType,
    pub(super) compute: Compute,
}

impl Mblm {
    /// Creates a model with parameters from `source`: a seed ([`Seeded`]) or a file.
    pub fn new(
        config: &ModelConfig,
        registry: &BlockRegistry,
        source: &dyn ParameterSource,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut config = config.clone();
        config.resolve(registry)?;
        config.validate()?;
        let builder = Builder::new(source, dtype, device);
        let stages = (0..config.num_stages())
            .map(|stage| Stage::new(&config, stage, &builder))
            .collect::<Result<Vec<_>>>()?;
        let local_dim = config.hidden_dims[config.num_stages() - 1];
        let to_logits = Linear::new(&builder.scope("to_logits"), local_dim, config.num_tokens)?;
        Ok(Self {
            config,
            stages,
            to_logits,
            parameters: builder.parameters(),
            device: device.clone(),
            dtype,
            compute: Compute::default(),
        })
    }

    /// Creates a float32 model of built-in blocks.
    pub fn seeded(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::new(config, &BlockRegistry::default(), &Seeded(seed), DType::F32, device)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
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

    /// The type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The numeric settings for inference; training passes bring their own.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Sets the numeric settings for inference; the default is exact.
    pub fn set_compute(&mut self, compute: Compute) {
        self.compute = compute;
    }

    /// The number of stages.
    pub(crate) fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// Whether a step of a stage's block recomputes the whole sequence.
    pub(crate) fn stage_recomputes(&self, stage: usize) -> bool {
        self.stages[stage].block.recomputes()
    }

    /// Bytes of one position of a stage.
    pub(crate) fn stage_bytes(&self, stage: usize) -> usize {
        self.stages[stage].bytes
    }

    /// The output of a stage's start row (1, 1, D) and the state after it.
    pub(crate) fn begin_stage(&self, stage: usize, compute: &Compute) -> Result<(Tensor, State)> {
        self.stages[stage].begin(compute)
    }

    /// The contexts (b, P, D) after `stage` from an output (b, 1, D); `None` for the last stage.
    pub(crate) fn next_contexts(&self, stage: usize, output: &Tensor, compute: &Compute) -> Result<Option<Tensor>> {
        match stage + 1 < self.stages.len() {
            true => self.contexts(stage, &output.squeeze(1)?, compute).map(Some),
            false => Ok(None),
        }
    }

    /// The contexts (m, P, D) of the next stage's sequences, from rows (m, D) that feed it.
    pub(super) fn contexts(&self, stage: usize, feed: &Tensor, compute: &Compute) -> Result<Tensor> {
        let next = &self.stages[stage + 1];
        let contexts = self.stages[stage].to_next().forward(feed, compute)?;
        Ok(contexts.reshape((feed.dim(0)?, next.positions, next.dim))?)
    }

    /// Runs positions `start`… of a stage: ids (b, t, p), contexts (b or 1, t, D) → (b, t, D).
    pub(crate) fn run_stage(
        &self,
        stage: usize,
        ids: &Tensor,
        start: usize,
        context: Option<&Tensor>,
        state: &mut State,
        compute: &Compute,
    ) -> Result<Tensor> {
        let stage = &self.stages[stage];
        let mut x = stage.embedding.forward(ids, start, compute)?;
        if let Some(context) = context {
            x = x.broadcast_add(context)?;
        }
        stage.forward(&x, state, compute)
    }

    /// Logits (…, V) from outputs of the local stage (…, D_N).
    pub(crate) fn logits_of(&self, rows: &Tensor, compute: &Compute) -> Result<Tensor> {
        self.to_logits.forward(rows, compute)
    }

    pub(super) fn local(&self) -> &Stage {
        &self.stages[self.stages.len() - 1]
    }

    /// Checks and pads ids, and checks that the first stage has room for them.
    pub(super) fn checked(&self, ids: Ids<'_>) -> Result<PaddedIds> {
        let ids = PaddedIds::new(&self.config, ids, &self.device)?;
        let (patches, bytes) = (ids.padded / self.stages[0].bytes, self.stages[0].bytes);
        match self.stages[0].embedding.max_positions() {
            Some(rows) if patches > rows => Err(Error::input(format!(
                "an input of {} bytes needs {patches} positions in the first stage, whose fixed position table has \
                 {rows}; at most {} bytes fit. Shorten the input, or train with pos_emb_type rope or none there",
                ids.len,
                rows * bytes
            ))),
            _ => Ok(ids),
        }
    }
}
