//! Blocks with keys kept as written: blocks of unknown type, and blocks built by a closure.
//!
//! A configuration can name a block that only a program knows. Until
//! [`BlockRegistry::resolve`](super::BlockRegistry::resolve) finds it, its keys are kept and
//! written back unchecked.

use std::fmt;
use std::sync::Arc;

use super::spec::{BlockArgs, BlockSpec, Keys, PositionEmbedding};
use crate::config::Problem;
use crate::config::tree::Node;
use crate::model::StageBlock;
use crate::{Error, Result};

/// Builds a block from its keys, without `pos_emb_type`.
pub(super) type Constructor = dyn Fn(&Keys, &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> + Send + Sync;

/// A block with its keys as written.
#[derive(Clone)]
pub struct UntypedBlock {
    block_type: String,
    pos_emb_type: Option<PositionEmbedding>,
    options: Keys,
    constructor: Option<Arc<Constructor>>,
}

impl UntypedBlock {
    /// Creates the block named `block_type` with these keys.
    pub(super) fn read(block_type: &str, keys: &Node, constructor: Option<Arc<Constructor>>) -> Result<Self, Problem> {
        Ok(Self {
            block_type: block_type.to_string(),
            pos_emb_type: match keys.get("pos_emb_type") {
                Some(_) => keys.read_key("pos_emb_type")?,
                None => None,
            },
            options: keys.without(&["pos_emb_type"]).read(&[])?,
            constructor,
        })
    }

    /// The keys except for `pos_emb_type`.
    pub fn options(&self) -> &Keys {
        &self.options
    }

    /// Whether the block can be built.
    pub(super) fn is_resolved(&self) -> bool {
        self.constructor.is_some()
    }
}

impl fmt::Debug for UntypedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(&self.block_type)
            .field("pos_emb_type", &self.pos_emb_type)
            .field("options", &self.options)
            .finish()
    }
}

impl BlockSpec for UntypedBlock {
    fn block_type(&self) -> &str {
        &self.block_type
    }

    fn keys(&self) -> Keys {
        let position = match self.pos_emb_type {
            None => serde_json::Value::Null,
            Some(PositionEmbedding::Fixed) => "fixed".into(),
            Some(PositionEmbedding::Rope) => "rope".into(),
        };
        let mut keys = Keys::from_iter([("pos_emb_type".to_string(), position)]);
        keys.extend(self.options.clone());
        keys
    }

    fn position_embedding(&self) -> Option<PositionEmbedding> {
        self.pos_emb_type
    }

    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> {
        match &self.constructor {
            Some(constructor) => constructor(&self.options, args),
            None => Err(Error::config(format!(
                "block_type {:?} is not built in; resolve the configuration with the registry that knows it",
                self.block_type
            ))),
        }
    }
}
