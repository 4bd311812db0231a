//! Block types by name: from a stage's block in a configuration to the block.
//!
//! `block_type` names the block. Without it, the keys select one of the blocks that have telling
//! keys. An unknown name is a custom block: its keys are kept as they are until a registry that
//! knows the name resolves it.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::spec::{BlockArgs, BlockConfig, BlockSpec, Direction, Keys, TellingKeys};
use super::untyped::UntypedBlock;
use crate::config::tree::Node;
use crate::config::{Problem, suggest};
use crate::model::StageBlock;
use crate::{Error, Result};

type Reader = dyn Fn(&Node) -> Result<BlockConfig, Problem> + Send + Sync;

/// The block types that a configuration may name. [`BlockRegistry::default`] has the built-in ones.
#[derive(Clone)]
pub struct BlockRegistry {
    types: Vec<BlockType>,
}

#[derive(Clone)]
struct BlockType {
    name: String,
    direction: Direction,
    telling: Option<TellingKeys>,
    read: Arc<Reader>,
    schema: Option<serde_json::Value>,
}

impl fmt::Debug for BlockRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.types.iter().map(|known| &known.name))
            .finish()
    }
}

impl BlockRegistry {
    /// Creates a registry without blocks.
    pub fn empty() -> Self {
        Self { types: Vec::new() }
    }

    /// Registers the block `T`, whose fields are its keys, as a `block_type`, replacing any block
    /// of that name.
    ///
    /// Name, direction and telling keys are those of `T::default()`.
    pub fn register<T: BlockSpec + DeserializeOwned + Default>(&mut self) {
        let block = T::default();
        self.insert(BlockType {
            name: block.block_type().to_string(),
            direction: block.direction(),
            telling: block.telling_keys(),
            read: Arc::new(|keys| Ok(keys.read::<T>(&["block_type"])?.into())),
            schema: block.schema(),
        });
    }

    /// Registers `constructor` for `block_type: name`. It receives the block's keys as written,
    /// except for `pos_emb_type`.
    ///
    /// Nothing is known about such a block before it is built: plans count no parameters for it,
    /// and as a first stage it is trained whole.
    pub fn register_fn<F>(&mut self, name: &str, constructor: F)
    where
        F: Fn(&Keys, &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> + Send + Sync + 'static,
    {
        let constructor = Arc::new(constructor);
        let own_name = name.to_string();
        self.insert(BlockType {
            name: name.to_string(),
            direction: Direction::Causal,
            telling: None,
            read: Arc::new(move |keys| Ok(UntypedBlock::read(&own_name, keys, Some(constructor.clone()))?.into())),
            schema: None,
        });
    }

    /// The names of all block types with the JSON schemas of their keys, where these are known.
    pub fn schemas(&self) -> impl Iterator<Item = (&str, Option<&serde_json::Value>)> {
        self.types
            .iter()
            .map(|block| (block.name.as_str(), block.schema.as_ref()))
    }

    fn insert(&mut self, block: BlockType) {
        match self.types.iter_mut().find(|known| known.name == block.name) {
            Some(known) => *known = block,
            None => self.types.push(block),
        }
    }

    fn get(&self, name: &str) -> Option<&BlockType> {
        self.types.iter().find(|known| known.name == name)
    }

    /// Resolves a block whose name was unknown when the configuration was read; returns other
    /// blocks unchanged.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one; keys that the block does not take.
    pub fn resolve(&self, block: &BlockConfig) -> Result<BlockConfig> {
        match block.downcast_ref::<UntypedBlock>() {
            Some(unknown) if !unknown.is_resolved() => {}
            _ => return Ok(block.clone()),
        }
        let name = block.block_type();
        let known = self.get(name).ok_or_else(|| self.unknown(name))?;
        let keys = Node::from(serde_json::Value::Object(block.keys()));
        (known.read)(&keys).map_err(|problem| Error::config(format!("block_type {name}: {problem}")))
    }

    /// Reads the map of a block in a model of this direction.
    pub(crate) fn read(&self, node: &Node, direction: Direction) -> Result<BlockConfig, Problem> {
        let named = match node.get("block_type") {
            Some(_) => node.read_key::<Option<String>>("block_type")?,
            None => None,
        };
        let keys = node.without(&["block_type"]);
        let known = match &named {
            Some(name) => self.get(name),
            None => Some(self.recognised(node, direction)?),
        };
        match (known, named) {
            (Some(known), _) => (known.read)(&keys),
            (None, named) => Ok(UntypedBlock::read(&named.unwrap_or_default(), &keys, None)?.into()),
        }
    }

    /// The block selected by its keys, without `block_type`.
    fn recognised(&self, node: &Node, direction: Direction) -> Result<&BlockType, Problem> {
        let telling = || self.types.iter().filter_map(|known| Some((known, known.telling?)));
        let mut told = telling().filter(|(_, telling)| node.keys().any(|key| telling.keys.contains(&key)));
        let first = told.next();
        // the same keys can select one block in a decoder and another in an encoder
        let others: Vec<_> = told.collect();
        match first {
            Some((block, keys)) if others.iter().all(|(_, other)| *other == keys) => {
                let mut candidates = std::iter::once(block).chain(others.iter().map(|(block, _)| *block));
                Ok(candidates.find(|block| block.direction == direction).unwrap_or(block))
            }
            _ => {
                let mut blocks: Vec<TellingKeys> = telling().map(|(_, telling)| telling).collect();
                blocks.dedup();
                Err(not_recognised(node, &blocks))
            }
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let causal = self.types.iter().filter(|known| known.direction == Direction::Causal);
        let known: Vec<&str> = causal.map(|known| known.name.as_str()).collect();
        Error::config(format!(
            "block_type {name:?} is not known{}. Register your own blocks with BlockRegistry::register",
            suggest::hint(name, &known)
        ))
    }
}

fn not_recognised(node: &Node, blocks: &[TellingKeys]) -> Problem {
    let found: Vec<&str> = node.keys().collect();
    let blocks: Vec<String> = blocks
        .iter()
        .map(|block| format!("{} ({})", block.title, block.keys.join(", ")))
        .collect();
    let message = format!(
        "expected a block: a map with the keys of {}, or a map with a block_type; found the keys [{}]",
        blocks.join(", of "),
        found.join(", ")
    );
    Problem::new("", message).or_at(&node.at)
}
