//! One stage of the hierarchy: token embedding, start token, block, projection to the next stage.

use candle_core::{DType, Tensor};

use super::block::{Pass, Saved, StageBlock};
use super::compute::Compute;
use super::embedding::TokenEmbedding;
use super::gradients::Gradients;
use super::init::Init;
use super::layers::Linear;
use super::parameter::{Builder, Parameter};
use super::state::State;
use super::state_gradient::StateGradient;
use crate::Result;
use crate::blocks::BlockArgs;
use crate::config::ModelConfig;

/// The outputs of a group of sequences.
pub(super) struct Outputs {
    /// The output before the first position (n or 1, 1, D): of the start row or the previous chunk.
    pub(super) before: Tensor,
    /// (n, t, D).
    pub(super) y: Tensor,
}

/// The gradients of [`Outputs`].
pub(super) struct OutputGradients {
    /// (n, 1, D); `None` if the output before is not used.
    pub(super) before: Option<Tensor>,
    /// (n, t, D).
    pub(super) y: Tensor,
}

/// One stage of a decoder.
pub(super) struct Stage {
    pub(super) embedding: TokenEmbedding,
    pub(super) block: Box<dyn StageBlock>,
    pub(super) start: Parameter,
    /// To the next stage's contexts, (…, D_n) → (…, P_{n+1} · D_{n+1}); `None` for the local stage.
    to_next: Option<Linear>,
    /// Positions of one sequence, P_n.
    pub(super) positions: usize,
    /// Bytes of one position, P_{n+1} · … · P_N.
    pub(super) bytes: usize,
    /// Width, D_n.
    pub(super) dim: usize,
}

impl Stage {
    pub(super) fn new(config: &ModelConfig, stage: usize, builder: &Builder<'_>) -> Result<Self> {
        let dim = config.hidden_dims[stage];
        let to_next = if stage + 1 < config.num_stages() {
            let next = config.hidden_dims[stage + 1] * config.seq_lens[stage + 1];
            Some(Linear::new(
                &builder.scope("to_next_stage_proj").scope(stage).scope(1),
                dim,
                next,
            )?)
        } else {
            None
        };
        let scope = builder.scope("stage_models").scope(stage);
        Ok(Self {
            embedding: TokenEmbedding::new(config, stage, builder)?,
            block: config.block[stage].build(&BlockArgs::new(dim, config.num_layers[stage], &scope))?,
            start: builder
                .scope("start_tokens")
                .parameter(&stage.to_string(), &[dim], Init::Normal(1.0))?,
            to_next,
            positions: config.seq_lens[stage],
            bytes: config.patch_bytes(stage),
            dim,
        })
    }

    /// The start token as a row (1, 1, D).
    pub(super) fn start_row(&self, compute: &Compute) -> Result<Tensor> {
        let row = self.start.value().reshape((1, 1, self.dim))?;
        Ok(row.to_dtype(self.activations(compute))?)
    }

    /// The type of the block's input and output rows.
    pub(super) fn activations(&self, compute: &Compute) -> DType {
        compute.activations(self.start.value().dtype())
    }

    /// Converts rows to the type of the block's parameters, unless the block takes bfloat16.
    fn for_block(&self, x: &Tensor) -> Result<Tensor> {
        match self.block.takes_half_precision() {
            true => Ok(x.clone()),
            false => Ok(x.to_dtype(self.start.value().dtype())?),
        }
    }

    /// Runs the start row: its output (1, 1, D) and the state after it, which all sequences share.
    ///
    /// A start token has no context and blocks are causal, so both are equal for all sequences.
    pub(super) fn begin(&self, compute: &Compute) -> Result<(Tensor, State)> {
        let mut state = self.block.initial_state();
        let y = self.forward(&self.start_row(compute)?, &mut state, compute)?;
        Ok((y, state))
    }

    /// Runs the block outside autograd, which a custom block's tracked parameters would start.
    pub(super) fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor> {
        let y = self.block.forward(&self.for_block(x)?, state, compute)?.detach();
        *state = state.detach();
        Ok(y.to_dtype(x.dtype())?)
    }

    /// [`forward`](Self::forward) that also returns what [`backward`](Self::backward) needs.
    pub(super) fn forward_train(
        &self,
        x: &Tensor,
        state: &mut State,
        pass: &Pass,
        compute: &Compute,
    ) -> Result<(Tensor, Saved)> {
        let (y, saved) = self.block.forward_train(&self.for_block(x)?, state, pass, compute)?;
        Ok((y.to_dtype(x.dtype())?, saved))
    }

    /// Returns the gradients of rows and initial state from those of outputs and final state.
    pub(super) fn backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        d_state: &StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, StateGradient)> {
        let dy_of_block = self.for_block(dy)?;
        let (dx, d_begin) = self.block.backward(saved, &dy_of_block, d_state, compute, gradients)?;
        Ok((dx.to_dtype(dy.dtype())?, d_begin))
    }

    /// The rows that feed the next stage, (n · t, D): the outputs shifted by one position.
    pub(super) fn feed(&self, outputs: &Outputs) -> Result<Tensor> {
        let Outputs { before, y } = outputs;
        let (sequences, positions, dim) = y.dims3()?;
        let before = before.broadcast_as((sequences, 1, dim))?;
        let feed = Tensor::cat(&[&before, &y.narrow(1, 0, positions - 1)?], 1)?; // (n, t, D)
        Ok(feed.reshape((sequences * positions, dim))?)
    }

    /// Returns the gradients of both [`Outputs`], given the gradient of [`feed`](Self::feed).
    pub(super) fn feed_backward(&self, d_feed: &Tensor, sequences: usize) -> Result<OutputGradients> {
        let (rows, dim) = d_feed.dims2()?;
        let d_feed = d_feed.reshape((sequences, rows / sequences, dim))?;
        Ok(OutputGradients {
            before: Some(d_feed.narrow(1, 0, 1)?),
            y: d_feed.narrow(1, 1, rows / sequences - 1)?.pad_with_zeros(1, 0, 1)?,
        })
    }

    /// The projection to the next stage's contexts.
    pub(super) fn to_next(&self) -> &Linear {
        self.to_next
            .as_ref()
            .expect("every stage but the local one is made with it")
    }
}

/// Zeros of one row per sequence.
pub(super) fn zero_rows(sequences: usize, dim: usize, dtype: DType, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::zeros((sequences, 1, dim), dtype, like.device())?)
}
