//! The keys of a Mamba1 stack in a configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blocks::spec::PositionEmbedding;

/// A stack of Mamba1 layers. Takes the keys of Mamba2 and, like the published package, ignores
/// `headdim` and `dropout`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mamba1 {
    /// Width of the recurrent state of one channel.
    pub d_state: usize,
    /// Positions seen by the causal convolution.
    pub d_conv: usize,
    /// Inner width in multiples of the stage's width.
    pub expand: usize,
    /// Ignored.
    pub headdim: usize,
    /// Ignored.
    #[serde(default)]
    pub dropout: f64,
    /// Position embedding of the stage's tokens.
    #[serde(default)]
    pub pos_emb_type: Option<PositionEmbedding>,
}

/// States of 16.
impl Default for Mamba1 {
    fn default() -> Self {
        Self::new(16)
    }
}

impl Mamba1 {
    /// A stack with states of width `d_state`, four convolution taps, inner width twice the stage's
    /// width, no position embedding.
    pub fn new(d_state: usize) -> Self {
        Self {
            d_state,
            d_conv: 4,
            expand: 2,
            headdim: 64,
            dropout: 0.0,
            pos_emb_type: None,
        }
    }

    /// Sets the position embedding of the stage's tokens.
    pub fn pos_emb_type(mut self, embedding: impl Into<Option<PositionEmbedding>>) -> Self {
        self.pos_emb_type = embedding.into();
        self
    }
}
