//! The hierarchy: one entry per stage in every list, from the most global stage to the local (byte)
//! stage.
//!
//! P_n = `seq_lens`, D_n = `hidden_dims`. A position of stage n stands for P_{n+1}·…·P_N bytes; the
//! whole model sees ∏ P_n bytes. The same keys are read from an experiment's YAML and from a
//! model's `config.json`, and written back.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::tree::{Node, Problem, Value};
use crate::blocks::{BlockConfig, BlockRegistry, Direction, PositionEmbedding, at_least_one};
use crate::{Error, Result};

/// The maximum number of stages of a hierarchy. A context that can be counted has fewer stages that
/// are longer than 1.
const MAX_STAGES: usize = 64;

/// A decoder's hierarchy of stages.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Size of the vocabulary: 256 bytes and the special ids.
    pub num_tokens: usize,
    /// Id that fills up the last patches; its embedding is zero.
    pub pad_token_id: u32,
    /// Width of each stage.
    #[serde(serialize_with = "one_line")]
    pub hidden_dims: Vec<usize>,
    /// Layers of each stage's block.
    #[serde(serialize_with = "one_line")]
    pub num_layers: Vec<usize>,
    /// Positions of each stage's sequences, start token not counted.
    #[serde(serialize_with = "one_line")]
    pub seq_lens: Vec<usize>,
    /// For each stage after the first, into how many chunks of its patches the backward pass is
    /// split and recomputed.
    #[serde(serialize_with = "one_line_or_null")]
    pub train_checkpoint_chunks: Option<Vec<usize>>,
    /// Each stage's block.
    #[schemars(with = "serde_json::Value")]
    pub block: Vec<BlockConfig>,
}

/// The keys of [`ModelConfig`] that need no block registry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainKeys {
    num_tokens: usize,
    pad_token_id: u32,
    hidden_dims: Vec<usize>,
    num_layers: Vec<usize>,
    seq_lens: Vec<usize>,
    #[serde(default)]
    train_checkpoint_chunks: Option<Vec<usize>>,
}

/// When a patch is visible to attention, given which of its bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MaskReduce {
    /// When any of its bytes is.
    #[default]
    Any,
    /// When all of its bytes are.
    All,
}

/// A masked-byte encoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EncoderConfig {
    /// Id that stands for a masked-out byte.
    pub mask_token_id: u32,
    /// The hierarchy.
    pub mblm_config: ModelConfig,
    /// When a patch is visible to attention.
    pub mask_reduce_strat: MaskReduce,
}

/// The keys of [`EncoderConfig`] that need no block registry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainEncoderKeys {
    mask_token_id: u32,
    #[serde(default)]
    mask_reduce_strat: MaskReduce,
}

/// A model, as `config.json` describes it. The key `mblm_config` marks an encoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Architecture {
    /// Predicts the next byte.
    Decoder(ModelConfig),
    /// Predicts masked-out bytes.
    Encoder(EncoderConfig),
}

impl Architecture {
    /// The hierarchy.
    pub fn model(&self) -> &ModelConfig {
        match self {
            Self::Decoder(model) => model,
            Self::Encoder(encoder) => &encoder.mblm_config,
        }
    }

    /// Returns `decoder` or `encoder`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decoder(_) => "decoder",
            Self::Encoder(_) => "encoder",
        }
    }

    /// Checks that the model can be built.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|problem| Error::config(problem.to_string()))
    }

    /// Like [`Architecture::validate`], with the path of the key at fault.
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Decoder(model) => model.check(Direction::Causal),
            Self::Encoder(encoder) => encoder.check(),
        }
    }

    /// Reads the keys of an architecture whose blocks `registry` knows; `also_known` as for
    /// [`Node::read`].
    pub(super) fn from_node(node: &Node, also_known: &[&str], registry: &BlockRegistry) -> Result<Self, Problem> {
        match node.get("mblm_config") {
            Some(model) => {
                let known = [also_known, &["mblm_config"]].concat();
                let keys: PlainEncoderKeys = node.without(&["mblm_config"]).read(&known)?;
                let mblm_config = ModelConfig::from_node(model, Direction::Bidirectional, &[], registry)
                    .map_err(|problem| problem.within("mblm_config"))?;
                Ok(Self::Encoder(EncoderConfig {
                    mask_token_id: keys.mask_token_id,
                    mblm_config,
                    mask_reduce_strat: keys.mask_reduce_strat,
                }))
            }
            None => {
                let model = ModelConfig::from_node(node, Direction::Causal, also_known, registry)?;
                Ok(Self::Decoder(model))
            }
        }
    }
}

impl EncoderConfig {
    /// Checks that the model can be built.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|problem| Error::config(problem.to_string()))
    }

    fn check(&self) -> Result<(), Problem> {
        self.mblm_config
            .check(Direction::Bidirectional)
            .map_err(|problem| problem.within("mblm_config"))?;
        check_id("mask_token_id", self.mask_token_id, self.mblm_config.num_tokens)
    }
}

impl ModelConfig {
    /// Returns the number of stages N.
    pub fn num_stages(&self) -> usize {
        self.hidden_dims.len()
    }

    /// Returns the bytes that one position of stage `stage` (from 0) stands for: P_{n+1}·…·P_N, and
    /// 1 for the local stage.
    ///
    /// Saturates; a validated configuration stays far below the limit.
    pub fn patch_bytes(&self, stage: usize) -> usize {
        self.seq_lens
            .iter()
            .skip(stage.saturating_add(1))
            .fold(1, |bytes, length| bytes.saturating_mul(*length))
    }

    /// Returns the bytes the model sees at once: ∏ P_n. Saturates; a validated configuration stays
    /// far below the limit.
    pub fn context(&self) -> usize {
        self.seq_lens
            .iter()
            .fold(1, |bytes, length| bytes.saturating_mul(*length))
    }

    /// Returns the longest input in bytes: ∏ P_n if the first stage has a `fixed` position table,
    /// else unlimited (`None`).
    pub fn longest_input(&self) -> Option<usize> {
        match self.block.first().and_then(|block| block.position_embedding()) {
            Some(PositionEmbedding::Fixed) => Some(self.context()),
            _ => None,
        }
    }

    /// Checks that a decoder with this hierarchy can be built.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn validate(&self) -> Result<()> {
        self.check(Direction::Causal)
            .map_err(|problem| Error::config(problem.to_string()))
    }

    fn from_node(
        node: &Node,
        direction: Direction,
        also_known: &[&str],
        registry: &BlockRegistry,
    ) -> Result<Self, Problem> {
        let known = [also_known, &["block"]].concat();
        let keys: PlainKeys = node.without(&["block"]).read(&known)?;
        let stages = keys.hidden_dims.len();
        // The check comes before a block is copied for each stage.
        check_number(stages)?;
        let read = |node: &Node| registry.read(node, direction);
        let block = read_blocks(node.require("block")?, stages, read).map_err(|problem| problem.within("block"))?;
        Ok(Self {
            num_tokens: keys.num_tokens,
            pad_token_id: keys.pad_token_id,
            hidden_dims: keys.hidden_dims,
            num_layers: keys.num_layers,
            seq_lens: keys.seq_lens,
            train_checkpoint_chunks: keys.train_checkpoint_chunks,
            block,
        })
    }

    pub(super) fn check(&self, direction: Direction) -> Result<(), Problem> {
        self.check_stages()?;
        self.check_vocabulary()?;
        for (key, values) in [
            ("hidden_dims", &self.hidden_dims),
            ("num_layers", &self.num_layers),
            ("seq_lens", &self.seq_lens),
        ] {
            check_entries(key, values)?;
        }
        self.check_chunks()?;
        self.check_sizes()?;
        for (stage, (block, dim)) in self.block.iter().zip(&self.hidden_dims).enumerate() {
            block
                .check_in(*dim, direction)
                .map_err(|problem| problem.within(stage).within("block"))?;
        }
        self.check_count()
    }

    fn check_stages(&self) -> Result<(), Problem> {
        let lengths = [self.hidden_dims.len(), self.num_layers.len(), self.seq_lens.len()];
        if lengths.iter().any(|length| *length != lengths[0]) {
            let message = format!(
                "expected one entry per stage in each of hidden_dims, num_layers and seq_lens, found {}, {} and {}; \
                 make the three lists equally long",
                lengths[0], lengths[1], lengths[2]
            );
            return Err(Problem::new("hidden_dims", message));
        }
        check_number(lengths[0])?;
        if lengths[0] == 0 {
            return Err(Problem::new(
                "hidden_dims",
                "expected at least one stage, found none; add an entry per stage",
            ));
        }
        if self.block.len() != lengths[0] {
            let message = format!(
                "expected one block for all stages or a list of {}, one per stage, found a list of {}",
                lengths[0],
                self.block.len()
            );
            return Err(Problem::new("block", message));
        }
        Ok(())
    }

    fn check_vocabulary(&self) -> Result<(), Problem> {
        at_least_one("num_tokens", self.num_tokens)?;
        if u32::try_from(self.num_tokens).is_err() {
            let message = format!(
                "expected at most {}, as ids have 32 bits, found {}",
                u32::MAX,
                self.num_tokens
            );
            return Err(Problem::new("num_tokens", message));
        }
        check_id("pad_token_id", self.pad_token_id, self.num_tokens)
    }

    fn check_chunks(&self) -> Result<(), Problem> {
        let Some(chunks) = &self.train_checkpoint_chunks else {
            return Ok(());
        };
        let expected = self.num_stages() - 1; // at least one stage: checked before
        if chunks.len() != expected {
            let message = format!(
                "expected null or {expected} numbers, one for each stage after the first, found {}",
                chunks.len()
            );
            return Err(Problem::new("train_checkpoint_chunks", message));
        }
        check_entries("train_checkpoint_chunks", chunks)
    }

    /// Checks that the context and the widths of embedded patches can be counted.
    fn check_sizes(&self) -> Result<(), Problem> {
        let context = self
            .seq_lens
            .iter()
            .try_fold(1usize, |bytes, length| bytes.checked_mul(*length));
        if context.is_none() {
            let message = format!(
                "the context, the product of {:?}, is beyond what can be counted; make the stages shorter",
                self.seq_lens
            );
            return Err(Problem::new("seq_lens", message));
        }
        let local = self.hidden_dims[self.num_stages() - 1]; // at least one stage: checked before
        for stage in 1..self.num_stages() {
            let embedded = self.patch_bytes(stage - 1).checked_mul(local);
            let projected = self.seq_lens[stage].checked_mul(self.hidden_dims[stage]);
            if embedded.is_none() || projected.is_none() {
                let message = format!(
                    "a patch of stage {} is wider than can be counted; make the stages narrower or shorter",
                    stage - 1
                );
                return Err(Problem::new("hidden_dims", message));
            }
        }
        Ok(())
    }

    fn check_count(&self) -> Result<(), Problem> {
        let total = self.parameter_counts().total;
        let addressable = isize::MAX as u64 / 4;
        match total > addressable {
            true => {
                let message =
                    "the parameters, four bytes each, are beyond what memory can address; make the model smaller";
                Err(Problem::new("hidden_dims", message))
            }
            false => Ok(()),
        }
    }
}

fn read_blocks(
    node: &Node,
    stages: usize,
    read: impl Fn(&Node) -> Result<BlockConfig, Problem>,
) -> Result<Vec<BlockConfig>, Problem> {
    match &node.value {
        Value::List(items) => items
            .iter()
            .enumerate()
            .map(|(stage, item)| read(item).map_err(|problem| problem.within(stage)))
            .collect(),
        _ => Ok(vec![read(node)?; stages]),
    }
}

fn check_number(stages: usize) -> Result<(), Problem> {
    match stages > MAX_STAGES {
        true => {
            let message = format!("expected at most {MAX_STAGES} stages, found {stages}; remove entries");
            Err(Problem::new("hidden_dims", message))
        }
        false => Ok(()),
    }
}

fn check_entries(key: &str, values: &[usize]) -> Result<(), Problem> {
    match values.iter().position(|value| *value == 0) {
        Some(stage) => at_least_one(&stage.to_string(), 0).map_err(|problem| problem.within(key)),
        None => Ok(()),
    }
}

fn check_id(key: &str, id: u32, num_tokens: usize) -> Result<(), Problem> {
    match (id as usize) < num_tokens {
        true => Ok(()),
        false => {
            let message = format!(
                "expected an id below num_tokens = {num_tokens}, found {id}; raise num_tokens to at least {}",
                u64::from(id) + 1
            );
            Err(Problem::new(key, message))
        }
    }
}

/// Writes a list of numbers on one line of YAML. Other formats stay as they are.
fn one_line<S: Serializer>(values: &[usize], serializer: S) -> Result<S::Ok, S::Error> {
    serde_saphyr::FlowSeq(values).serialize(serializer)
}

fn one_line_or_null<S: Serializer>(values: &Option<Vec<usize>>, serializer: S) -> Result<S::Ok, S::Error> {
    match values {
        Some(values) => one_line(values, serializer),
        None => serializer.serialize_none(),
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::from(serde_json::Value::deserialize(deserializer)?);
        Self::from_node(&node, &[], &BlockRegistry::default()).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::from(serde_json::Value::deserialize(deserializer)?);
        Self::from_node(&node, Direction::Causal, &[], &BlockRegistry::default()).map_err(serde::de::Error::custom)
    }
}
