//! The keys of a Transformer stack in a configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blocks::spec::PositionEmbedding;

/// A stack of causal Transformer layers with token shift.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Transformer {
    /// Width of one attention head.
    pub attn_head_dims: usize,
    /// Number of attention heads; heads × width need not equal the stage's width.
    pub attn_num_heads: usize,
    /// Whether queries and keys are rotated by position.
    pub attn_use_rot_embs: bool,
    /// Dropout of the attention weights in training.
    #[serde(default)]
    pub attn_dropout: f64,
    /// Width of the feed-forward layer in multiples of the stage's width.
    #[serde(default = "default_ff_multiplier")]
    pub ff_multiplier: usize,
    /// Dropout inside the feed-forward layer in training.
    #[serde(default)]
    pub ff_dropout: f64,
    /// Accepted for compatibility with the package; does not change results.
    #[serde(default)]
    pub use_flash_attn: bool,
    /// Position embedding of the stage's tokens.
    #[serde(default)]
    pub pos_emb_type: Option<PositionEmbedding>,
}

fn default_ff_multiplier() -> usize {
    2
}

/// Eight heads of 64 channels.
impl Default for Transformer {
    fn default() -> Self {
        Self::new(8, 64)
    }
}

impl Transformer {
    /// A stack with `heads` rotary attention heads of `head_dims` channels, no dropout, no position
    /// embedding.
    pub fn new(heads: usize, head_dims: usize) -> Self {
        Self {
            attn_head_dims: head_dims,
            attn_num_heads: heads,
            attn_use_rot_embs: true,
            attn_dropout: 0.0,
            ff_multiplier: default_ff_multiplier(),
            ff_dropout: 0.0,
            use_flash_attn: false,
            pos_emb_type: None,
        }
    }

    /// Sets whether queries and keys are rotated by position.
    pub fn attn_use_rot_embs(mut self, rotated: bool) -> Self {
        self.attn_use_rot_embs = rotated;
        self
    }

    /// Sets the feed-forward width to `multiplier` times the stage's width.
    pub fn ff_multiplier(mut self, multiplier: usize) -> Self {
        self.ff_multiplier = multiplier;
        self
    }

    /// Sets the dropout of the attention weights.
    pub fn attn_dropout(mut self, probability: f64) -> Self {
        self.attn_dropout = probability;
        self
    }

    /// Sets the dropout inside the feed-forward layer.
    pub fn ff_dropout(mut self, probability: f64) -> Self {
        self.ff_dropout = probability;
        self
    }

    /// Sets the position embedding of the stage's tokens.
    pub fn pos_emb_type(mut self, embedding: impl Into<Option<PositionEmbedding>>) -> Self {
        self.pos_emb_type = embedding.into();
        self
    }
}
