//! From a block's configuration to the block: the built-in kinds, and a user's own by a registered name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::block::StageBlock;
use super::parameter::Builder;
use crate::blocks::{Mamba1, Mamba2, Transformer};
use crate::config::{BlockConfig, CustomBlockConfig, ModelConfig, suggest};
use crate::{Error, Result};

/// What a custom block is made from.
pub struct BlockArgs<'a> {
    /// The block's entry in the configuration; `options` holds its own keys.
    pub config: &'a CustomBlockConfig,
    /// The width of the stage.
    pub dim: usize,
    /// The number of layers that the configuration asks for.
    pub layers: usize,
    /// Makes the block's parameters, named `stage_models.{n}.…`.
    pub builder: &'a Builder<'a>,
}

type Constructor = dyn Fn(&BlockArgs<'_>) -> Result<Box<dyn StageBlock>> + Send + Sync;

/// The kinds of blocks that a configuration may name beside the built-in ones.
#[derive(Clone, Default)]
pub struct BlockRegistry {
    constructors: BTreeMap<String, Arc<Constructor>>,
}

impl fmt::Debug for BlockRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.constructors.keys()).finish()
    }
}

impl BlockRegistry {
    /// Makes `block_type: name` in a configuration call `constructor`.
    pub fn register<F>(&mut self, name: &str, constructor: F)
    where
        F: Fn(&BlockArgs<'_>) -> Result<Box<dyn StageBlock>> + Send + Sync + 'static,
    {
        self.constructors.insert(name.to_string(), Arc::new(constructor));
    }

    /// Checks that every block of a configuration is built in or registered, without making any.
    ///
    /// # Errors
    /// Names the stage, the block, and the nearest known name.
    pub fn check(&self, model: &ModelConfig) -> Result<()> {
        for (stage, block) in model.block.iter().enumerate() {
            match block {
                BlockConfig::Custom(config) if !self.constructors.contains_key(&config.block_type) => {
                    return Err(Error::config(format!(
                        "stage {}: {}",
                        stage + 1,
                        self.unknown(&config.block_type)
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the block of a decoder's stage.
    pub(super) fn build(
        &self,
        config: &BlockConfig,
        dim: usize,
        layers: usize,
        builder: &Builder<'_>,
    ) -> Result<Box<dyn StageBlock>> {
        match config {
            BlockConfig::Transformer(config) => Ok(Box::new(Transformer::decoder(config, dim, layers, builder)?)),
            BlockConfig::Mamba2(config) => Ok(Box::new(Mamba2::new(config, dim, layers, builder)?)),
            BlockConfig::Mamba1(config) => Ok(Box::new(Mamba1::new(config, dim, layers, builder)?)),
            BlockConfig::TransformerEncoder(_) => Err(Error::config(
                "block_type transformerEncoder: sees the bytes that a decoder predicts; use transformer",
            )),
            BlockConfig::Custom(config) => match self.constructors.get(&config.block_type) {
                Some(constructor) => constructor(&BlockArgs {
                    config,
                    dim,
                    layers,
                    builder,
                }),
                None => Err(self.unknown(&config.block_type)),
            },
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let builtin = ["transformer", "mamba2", "mamba1"];
        let known: Vec<&str> = builtin
            .into_iter()
            .chain(self.constructors.keys().map(String::as_str))
            .collect();
        Error::config(format!(
            "block_type {name:?} is not known{}. A block of your own is registered with BlockRegistry::register",
            suggest::hint(name, &known)
        ))
    }
}
