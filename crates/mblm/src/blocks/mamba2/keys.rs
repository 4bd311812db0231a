//! The keys of a Mamba2 stack in a configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blocks::spec::PositionEmbedding;

/// A stack of Mamba2 layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mamba2 {
    /// Width of the recurrent state of one channel.
    pub d_state: usize,
    /// Positions seen by the causal convolution.
    pub d_conv: usize,
    /// Inner width in multiples of the stage's width.
    pub expand: usize,
    /// Width of one head; divides expand × the stage's width.
    pub headdim: usize,
    /// Dropout of the last mixer's output in training.
    #[serde(default)]
    pub dropout: f64,
    /// Position embedding of the stage's tokens.
    #[serde(default)]
    pub pos_emb_type: Option<PositionEmbedding>,
}

/// States of 128, heads of 64 channels.
impl Default for Mamba2 {
    fn default() -> Self {
        Self::new(128, 64)
    }
}

impl Mamba2 {
    /// A stack with states of width `d_state` and heads of `headdim` channels, four convolution
    /// taps, inner width twice the stage's width, no dropout, no position embedding.
    pub fn new(d_state: usize, headdim: usize) -> Self {
        Self {
            d_state,
            d_conv: 4,
            expand: 2,
            headdim,
            dropout: 0.0,
            pos_emb_type: None,
        }
    }

    /// Sets the dropout of the last mixer's output.
    pub fn dropout(mut self, dropout: f64) -> Self {
        self.dropout = dropout;
        self
    }

    /// Sets the position embedding of the stage's tokens.
    pub fn pos_emb_type(mut self, embedding: impl Into<Option<PositionEmbedding>>) -> Self {
        self.pos_emb_type = embedding.into();
        self
    }
}
