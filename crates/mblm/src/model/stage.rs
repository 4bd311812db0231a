//! One stage of the hierarchy: token embedding, start token, block, and the projection to the next stage.

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

/// What a group of sequences of a stage gives.
pub(super) struct Outputs {
    /// The output before the first position (n or 1, 1, D): that of the start row, or of the chunk before.
    pub(super) before: Tensor,
    /// (n, t, D).
    pub(super) y: Tensor,
}

/// The gradients of [`Outputs`].
pub(super) struct OutputGradients {
    /// (n, 1, D); nothing where the output before is not used.
    pub(super) before: Option<Tensor>,
    /// (n, t, D).
    pub(super) y: Tensor,
}

/// One stage of a decoder.
pub(super) struct Stage {
    pub(super) embedding: TokenEmbedding,
    pub(super) block: Box<dyn StageBlock>,
    pub(super) start: Parameter,
    /// To the contexts of the next stage's sequence: (…, D_n) → (…, P_{n+1} · D_{n+1}). None for the local stage.
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

    /// The type of the rows that go into the block and come out of it.
    pub(super) fn activations(&self, compute: &Compute) -> DType {
        compute.activations(self.start.value().dtype())
    }

    /// Rows as the block takes them: in the type of its parameters, unless it takes fewer bits too.
    fn for_block(&self, x: &Tensor) -> Result<Tensor> {
        match self.block.takes_half_precision() {
            true => Ok(x.clone()),
            false => Ok(x.to_dtype(self.start.value().dtype())?),
        }
    }

    /// The output of the start row, (1, 1, D), and the state after it, which every sequence of the stage shares.
    ///
    /// A start token gets nothing from the stage above and blocks are causal, so both are the same for all sequences.
    pub(super) fn begin(&self, compute: &Compute) -> Result<(Tensor, State)> {
        let mut state = self.block.initial_state();
        let y = self.forward(&self.start_row(compute)?, &mut state, compute)?;
        Ok((y, state))
    }

    /// The block's forward pass outside every autograd graph, which a custom block's tracked parameters would start.
    pub(super) fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor> {
        let y = self.block.forward(&self.for_block(x)?, state, compute)?.detach();
        *state = state.detach();
        Ok(y.to_dtype(x.dtype())?)
    }

    /// [`forward`](Self::forward) that keeps what [`backward`](Self::backward) needs.
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

    /// The gradients of the rows and of the state before them, from those of the outputs and of the state after them.
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

    /// The rows that feed the next stage, (n · t, D): the outputs one position late.
    pub(super) fn feed(&self, outputs: &Outputs) -> Result<Tensor> {
        let Outputs { before, y } = outputs;
        let (sequences, positions, dim) = y.dims3()?;
        let before = before.broadcast_as((sequences, 1, dim))?;
        let feed = Tensor::cat(&[&before, &y.narrow(1, 0, positions - 1)?], 1)?; // (n, t, D)
        Ok(feed.reshape((sequences * positions, dim))?)
    }

    /// The gradients of the outputs before (n, 1, D) and of `y` (n, t, D), from that of [`feed`](Self::feed).
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
