//! Token embedding of one stage: from byte ids to the input rows of the stage's block.
//!
//! ```text
//! local stage    x = E[id]                                               E (V, D)
//! other stages   x = LayerNorm(W · LayerNorm(E[id_1] ‖ … ‖ E[id_p]) + b)  E (V, D_N), W (D, p·D_N)
//! then           + table (fixed), or rotated by position (rope), or unchanged
//! ```
//!
//! Shapes: ids (n, t, p) `u32`; rows (n, t, D). `n` sequences of `t` positions with `p` bytes each.

use candle_core::Tensor;
use mblm_ops::{embedding, layer_norm, positions, rope};

use crate::blocks::PositionEmbedding;
use crate::config::ModelConfig;
use crate::model::compute::Compute;
use crate::model::gradients::Gradients;
use crate::model::init::Init;
use crate::model::layers::Linear;
use crate::model::parameter::{Builder, Parameter};
use crate::{Error, Result};

/// The token embedding of one stage.
pub(super) struct TokenEmbedding {
    table: Parameter,
    patch: Option<PatchProjection>,
    position: Position,
    pad_token_id: u32,
}

struct PatchProjection {
    norm_in: LayerNorm,
    linear: Linear,
    norm_out: LayerNorm,
}

struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
}

enum Position {
    None,
    Fixed(Parameter),
    Rope,
}

/// The values that the backward pass of the embedding needs.
pub(super) struct Saved {
    ids: Tensor,
    start: usize,
    patch: Option<SavedPatch>,
}

struct SavedPatch {
    bytes: Tensor,
    norm_in: layer_norm::Saved,
    normed: Tensor,
    projected: Tensor,
    norm_out: layer_norm::Saved,
}

impl LayerNorm {
    fn new(builder: &Builder<'_>, width: usize) -> Result<Self> {
        Ok(Self {
            weight: builder.parameter("weight", &[width], Init::Ones)?,
            bias: builder.parameter("bias", &[width], Init::Zeros)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<(Tensor, layer_norm::Saved)> {
        Ok(layer_norm::forward(x, self.weight.value(), self.bias.value())?)
    }

    fn backward(
        &self,
        x: &Tensor,
        saved: &layer_norm::Saved,
        dy: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let [d_weight, d_bias] = gradients.of_each([&self.weight, &self.bias]);
        Ok(layer_norm::backward(
            x,
            self.weight.value(),
            saved,
            dy,
            d_weight,
            d_bias,
        )?)
    }
}

impl TokenEmbedding {
    /// The embedding of stage `stage` (0 = most global).
    pub(super) fn new(config: &ModelConfig, stage: usize, builder: &Builder<'_>) -> Result<Self> {
        let local = config.num_stages() - 1;
        let local_dim = config.hidden_dims[local];
        let dim = config.hidden_dims[stage];
        let scope = builder.scope("token_embs_rev").scope(local - stage);
        let pad = config.pad_token_id as usize;
        let table = scope.scope("embedding").parameter(
            "weight",
            &[config.num_tokens, local_dim],
            Init::NormalExceptRow(pad),
        )?;
        let patch = if stage == local {
            None
        } else {
            let width = config.patch_bytes(stage) * local_dim;
            let post = scope.scope("_post");
            Some(PatchProjection {
                norm_in: LayerNorm::new(&post.scope(1), width)?,
                linear: Linear::new(&post.scope(2), width, dim)?,
                norm_out: LayerNorm::new(&post.scope(3), dim)?,
            })
        };
        let position = match config.block[stage].position_embedding() {
            None => Position::None,
            Some(PositionEmbedding::Rope) => Position::Rope,
            Some(PositionEmbedding::Fixed) => {
                let table = builder.scope("pos_embs").scope(stage);
                Position::Fixed(table.parameter("weight", &[config.seq_lens[stage], dim], Init::Normal(1.0))?)
            }
        };
        Ok(Self {
            table,
            patch,
            position,
            pad_token_id: config.pad_token_id,
        })
    }

    /// The number of rows of a position table, or `None` if the number of positions is unlimited.
    pub(super) fn max_positions(&self) -> Option<usize> {
        match &self.position {
            Position::Fixed(table) => table.value().dims().first().copied(),
            Position::None | Position::Rope => None,
        }
    }

    /// Embeds `ids` (n, t, p) into (n, t, D), without positions.
    pub(super) fn tokens(&self, ids: &Tensor, compute: &Compute) -> Result<Tensor> {
        Ok(self.tokens_train(ids, compute)?.0)
    }

    fn tokens_train(&self, ids: &Tensor, compute: &Compute) -> Result<(Tensor, Option<SavedPatch>)> {
        let (sequences, positions, bytes) = ids.dims3()?;
        let table = self.table.value();
        let rows = embedding::forward(ids, table, compute.activations(table.dtype()))?; // (n, t, p, D_N)
        let flat = rows.reshape((sequences, positions, bytes * rows.dim(3)?))?; // (n, t, p·D_N)
        let Some(patch) = &self.patch else {
            return Ok((flat, None));
        };
        let (normed, norm_in) = patch.norm_in.forward(&flat)?;
        let projected = patch.linear.forward(&normed, compute)?; // (n, t, D)
        let (tokens, norm_out) = patch.norm_out.forward(&projected)?;
        let saved = SavedPatch {
            bytes: flat,
            norm_in,
            normed,
            projected,
            norm_out,
        };
        Ok((tokens, Some(saved)))
    }

    /// Adds or applies the positions `start`, `start` + 1, … to `tokens` (n, t, D).
    pub(super) fn with_positions(&self, tokens: &Tensor, start: usize) -> Result<Tensor> {
        match &self.position {
            Position::None => Ok(tokens.clone()),
            Position::Rope => Ok(rope::forward(tokens, start)?),
            Position::Fixed(table) => {
                let (rows, end) = (table.value().dim(0)?, start + tokens.dim(1)?);
                if end > rows {
                    return Err(Error::input(format!(
                        "the input reaches position {} of a stage whose fixed position table has {rows} rows; \
                         shorten the input, or train a model whose first stage uses pos_emb_type rope or none",
                        end - 1,
                    )));
                }
                Ok(positions::forward(tokens, table.value(), start)?)
            }
        }
    }

    /// Embeds `ids` (n, t, p), at positions `start` and on, into (n, t, D).
    pub(super) fn forward(&self, ids: &Tensor, start: usize, compute: &Compute) -> Result<Tensor> {
        self.with_positions(&self.tokens(ids, compute)?, start)
    }

    /// [`forward`](Self::forward) that also returns what the backward pass needs.
    pub(super) fn forward_train(&self, ids: &Tensor, start: usize, compute: &Compute) -> Result<(Tensor, Saved)> {
        let (tokens, patch) = self.tokens_train(ids, compute)?;
        let saved = Saved {
            ids: ids.clone(),
            start,
            patch,
        };
        Ok((self.with_positions(&tokens, start)?, saved))
    }

    /// Adds the gradients of tables and projection, from the gradient of the rows (n, t, D).
    pub(super) fn backward(
        &self,
        saved: Saved,
        d_rows: &Tensor,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let mut d_tokens = d_rows.clone();
        match &self.position {
            Position::None => {}
            Position::Rope => d_tokens = rope::backward(d_rows, saved.start)?,
            Position::Fixed(table) => {
                positions::backward(d_rows, saved.start, gradients.of(table))?;
            }
        }
        if let (Some(patch), Some(saved)) = (&self.patch, &saved.patch) {
            let d_projected = patch
                .norm_out
                .backward(&saved.projected, &saved.norm_out, &d_tokens, gradients)?;
            let d_normed = patch.linear.backward(&saved.normed, &d_projected, compute, gradients)?;
            d_tokens = patch
                .norm_in
                .backward(&saved.bytes, &saved.norm_in, &d_normed, gradients)?;
        }
        let (sequences, positions, bytes) = saved.ids.dims3()?;
        let d_bytes = d_tokens.reshape((sequences, positions, bytes, self.table.value().dim(1)?))?; // (n, t, p, D_N)
        embedding::backward(&saved.ids, &d_bytes, gradients.of(&self.table), Some(self.pad_token_id))?;
        Ok(())
    }
}
