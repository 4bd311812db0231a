//! Builders of model configurations: stage lengths, and the values that differ from the defaults.
//!
//! ```
//! use mblm::blocks::{Mamba2, Transformer};
//! use mblm::config::ModelConfig;
//!
//! let model = ModelConfig::new([1024, 8])
//!     .dims([512, 256])
//!     .layers([4, 2])
//!     .block(0, Mamba2::default())
//!     .block(1, Transformer::new(4, 64));
//! model.validate()?;
//! assert_eq!(model.context(), 8192);
//! # Ok::<(), mblm::Error>(())
//! ```

use super::model::{Architecture, EncoderConfig, MaskReduce, ModelConfig};
use crate::blocks::{BlockConfig, BlockRegistry};
use crate::{Error, Result};

/// Default width of a stage.
const DIM: usize = 256;
/// Default number of layers of a stage.
const LAYERS: usize = 4;

/// Two stages: 256 patches of 8 bytes.
impl Default for ModelConfig {
    fn default() -> Self {
        Self::new([256, 8])
    }
}

impl ModelConfig {
    /// Makes a hierarchy with one stage for each of `seq_lens`, the positions of a stage's
    /// sequences, from the most global stage to the local one.
    ///
    /// Each stage has four layers of the default block, 256 wide. The ids are the 256 bytes, and
    /// 256 for padding.
    pub fn new(seq_lens: impl Into<Vec<usize>>) -> Self {
        let seq_lens = seq_lens.into();
        let stages = seq_lens.len();
        Self {
            num_tokens: 257,
            pad_token_id: 256,
            hidden_dims: vec![DIM; stages],
            num_layers: vec![LAYERS; stages],
            seq_lens,
            train_checkpoint_chunks: None,
            block: vec![BlockConfig::default(); stages],
        }
    }

    /// Sets the widths, one for each stage.
    pub fn dims(mut self, dims: impl Into<Vec<usize>>) -> Self {
        self.hidden_dims = dims.into();
        self
    }

    /// Sets the numbers of layers, one for each stage.
    pub fn layers(mut self, layers: impl Into<Vec<usize>>) -> Self {
        self.num_layers = layers.into();
        self
    }

    /// Sets the block of stage `stage`, from 0. [`validate`](Self::validate) refuses a block of a
    /// stage that does not exist.
    pub fn block(mut self, stage: usize, block: impl Into<BlockConfig>) -> Self {
        if stage >= self.block.len() {
            self.block.resize(stage + 1, BlockConfig::default());
        }
        self.block[stage] = block.into();
        self
    }

    /// Sets the block of every stage.
    pub fn blocks(mut self, block: impl Into<BlockConfig>) -> Self {
        self.block = vec![block.into(); self.block.len()];
        self
    }

    /// Sets the vocabulary: ids below `num_tokens`, of which `pad_token_id` fills up the last
    /// patches.
    pub fn vocabulary(mut self, num_tokens: usize, pad_token_id: u32) -> Self {
        (self.num_tokens, self.pad_token_id) = (num_tokens, pad_token_id);
        self
    }

    /// Sets the numbers of chunks in which the patches of each stage after the first are trained.
    pub fn checkpoint_chunks(mut self, chunks: impl Into<Vec<usize>>) -> Self {
        self.train_checkpoint_chunks = Some(chunks.into());
        self
    }

    /// Replaces each block that was unknown when the configuration was read by the block of
    /// `registry`.
    ///
    /// # Errors
    /// Names the stage, the block, and the nearest known name or the key at fault.
    pub fn resolve(&mut self, registry: &BlockRegistry) -> Result<()> {
        for (stage, block) in self.block.iter_mut().enumerate() {
            *block = registry
                .resolve(block)
                .map_err(|error| Error::config(format!("stage {}: {error}", stage + 1)))?;
        }
        Ok(())
    }
}

impl EncoderConfig {
    /// Makes an encoder with this hierarchy. `mask_token_id` replaces each masked byte; a patch is
    /// visible if any of its bytes is visible.
    pub fn new(mask_token_id: u32, model: ModelConfig) -> Self {
        Self {
            mask_token_id,
            mblm_config: model,
            mask_reduce_strat: MaskReduce::Any,
        }
    }
}

impl Architecture {
    /// Replaces each block that was unknown when the configuration was read by the block of
    /// `registry`.
    ///
    /// # Errors
    /// Names the stage, the block, and the nearest known name or the key at fault.
    pub fn resolve(&mut self, registry: &BlockRegistry) -> Result<()> {
        match self {
            Self::Decoder(model) => model.resolve(registry),
            Self::Encoder(encoder) => encoder.mblm_config.resolve(registry),
        }
    }
}

impl From<ModelConfig> for Architecture {
    fn from(model: ModelConfig) -> Self {
        Self::Decoder(model)
    }
}

impl From<EncoderConfig> for Architecture {
    fn from(encoder: EncoderConfig) -> Self {
        Self::Encoder(encoder)
    }
}
