//! What one stage computes: the keys of its block.
//!
//! `block_type` names the block. Without it the keys decide: Transformer keys mean `transformer` (in an encoder
//! `transformerEncoder`, the only block it has), Mamba keys mean `mamba2`. Any other name is a custom block: its keys are
//! kept as they are, and whether it exists is only known when the model is built with a registry of blocks.

use serde::{Deserialize, Serialize};

use super::tree::{Node, Problem};

/// How a stage's embedded tokens learn where in the sequence they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    /// A learned table (P_n, D_n), added; the stage's sequence can be no longer than the table.
    Fixed,
    /// A rotation of the whole embedding (D_n) by position.
    Rope,
}

/// A stack of Transformer layers, causal (`transformer`) or bidirectional (`transformerEncoder`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
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
    /// Accepted for the package's sake; changes nothing in the results.
    #[serde(default)]
    pub use_flash_attn: bool,
    /// Position embedding of the stage's tokens.
    #[serde(default)]
    pub pos_emb_type: Option<PositionEmbedding>,
}

fn default_ff_multiplier() -> usize {
    2
}

/// A stack of Mamba layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MambaConfig {
    /// Width of the recurrent state of one channel.
    pub d_state: usize,
    /// Positions seen by the causal convolution.
    pub d_conv: usize,
    /// Inner width in multiples of the stage's width.
    pub expand: usize,
    /// Width of one head; divides expand × the stage's width. Ignored by `mamba1`.
    pub headdim: usize,
    /// Dropout of the last mixer's output in training. Ignored by `mamba1`.
    #[serde(default)]
    pub dropout: f64,
    /// Position embedding of the stage's tokens.
    #[serde(default)]
    pub pos_emb_type: Option<PositionEmbedding>,
}

/// A block that is not built in: its name, and its keys as written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CustomBlockConfig {
    /// The name under which the block is registered.
    pub block_type: String,
    /// Position embedding of the stage's tokens.
    pub pos_emb_type: Option<PositionEmbedding>,
    /// All other keys.
    #[serde(flatten)]
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// The block of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "block_type")]
pub enum BlockConfig {
    /// Causal Transformer with token shift.
    #[serde(rename = "transformer")]
    Transformer(TransformerConfig),
    /// Bidirectional Transformer, for encoders.
    #[serde(rename = "transformerEncoder")]
    TransformerEncoder(TransformerConfig),
    /// Mamba2.
    #[serde(rename = "mamba2")]
    Mamba2(MambaConfig),
    /// Mamba1.
    #[serde(rename = "mamba1")]
    Mamba1(MambaConfig),
    /// A block that the user has registered.
    #[serde(untagged)]
    Custom(CustomBlockConfig),
}

impl BlockConfig {
    /// Position embedding of the stage's tokens.
    pub fn pos_emb_type(&self) -> Option<PositionEmbedding> {
        match self {
            Self::Transformer(block) | Self::TransformerEncoder(block) => block.pos_emb_type,
            Self::Mamba2(block) | Self::Mamba1(block) => block.pos_emb_type,
            Self::Custom(block) => block.pos_emb_type,
        }
    }

    /// The block's name, as in the configuration.
    pub fn block_type(&self) -> &str {
        match self {
            Self::Transformer(_) => "transformer",
            Self::TransformerEncoder(_) => "transformerEncoder",
            Self::Mamba2(_) => "mamba2",
            Self::Mamba1(_) => "mamba1",
            Self::Custom(block) => &block.block_type,
        }
    }

    /// The largest dropout probability the block uses in training: 0 means that it computes the same as in evaluation.
    ///
    /// Of a custom block nothing is known: `None`.
    pub fn dropout(&self) -> Option<f64> {
        match self {
            Self::Transformer(block) | Self::TransformerEncoder(block) => {
                Some(block.attn_dropout.max(block.ff_dropout))
            }
            Self::Mamba2(block) => Some(block.dropout),
            Self::Mamba1(_) => Some(0.0),
            Self::Custom(_) => None,
        }
    }

    pub(super) fn from_node(node: &Node, in_encoder: bool) -> Result<Self, Problem> {
        let named = match node.get("block_type") {
            Some(_) => node.read_key::<Option<String>>("block_type")?,
            None => None,
        };
        let kind = named.map_or_else(|| infer(node, in_encoder), Ok)?;
        let keys = node.without(&["block_type"]);
        let taken = &["block_type"];
        Ok(match kind.as_str() {
            "transformer" => Self::Transformer(keys.read(taken)?),
            "transformerEncoder" => Self::TransformerEncoder(keys.read(taken)?),
            "mamba2" => Self::Mamba2(keys.read(taken)?),
            "mamba1" => Self::Mamba1(keys.read(taken)?),
            _ => Self::Custom(CustomBlockConfig {
                pos_emb_type: match keys.get("pos_emb_type") {
                    Some(_) => keys.read_key("pos_emb_type")?,
                    None => None,
                },
                options: keys.without(&["pos_emb_type"]).read(&[])?,
                block_type: kind,
            }),
        })
    }

    /// Checks the block's numbers for a stage of width `dim`. Of a custom block only the position embedding is known.
    pub(super) fn check(&self, dim: usize) -> Result<(), Problem> {
        if self.pos_emb_type() == Some(PositionEmbedding::Rope) && !dim.is_multiple_of(2) {
            let message = format!(
                "expected an even hidden dim for rope, which turns pairs of channels, found {dim}; make it even or use fixed"
            );
            return Err(Problem::new("pos_emb_type", message));
        }
        match self {
            Self::Transformer(block) | Self::TransformerEncoder(block) => block.check(dim),
            Self::Mamba2(block) => {
                block.check(dim)?;
                at_least_one("headdim", block.headdim)?;
                check_dropout("dropout", block.dropout)?;
                check_heads(block, dim)
            }
            Self::Mamba1(block) => block.check(dim),
            Self::Custom(_) => Ok(()),
        }
    }
}

impl TransformerConfig {
    fn check(&self, dim: usize) -> Result<(), Problem> {
        at_least_one("attn_head_dims", self.attn_head_dims)?;
        at_least_one("attn_num_heads", self.attn_num_heads)?;
        at_least_one("ff_multiplier", self.ff_multiplier)?;
        if self.attn_use_rot_embs && !self.attn_head_dims.is_multiple_of(2) {
            let message = format!(
                "expected an even head width for rotary embeddings, which turn pairs of channels, found {}; \
                 make it even or set attn_use_rot_embs to false",
                self.attn_head_dims
            );
            return Err(Problem::new("attn_head_dims", message));
        }
        check_dropout("attn_dropout", self.attn_dropout)?;
        check_dropout("ff_dropout", self.ff_dropout)?;
        product(
            "attn_num_heads",
            "attn_num_heads × attn_head_dims",
            self.attn_num_heads,
            self.attn_head_dims,
        )?;
        product("ff_multiplier", "ff_multiplier × hidden dim", self.ff_multiplier, dim)
    }
}

impl MambaConfig {
    fn check(&self, dim: usize) -> Result<(), Problem> {
        at_least_one("d_state", self.d_state)?;
        at_least_one("d_conv", self.d_conv)?;
        at_least_one("expand", self.expand)?;
        product("expand", "expand × hidden dim", self.expand, dim)
    }
}

fn check_heads(block: &MambaConfig, dim: usize) -> Result<(), Problem> {
    let inner = block.expand.saturating_mul(dim);
    if inner.is_multiple_of(block.headdim) {
        return Ok(());
    }
    let message = format!(
        "expected a divisor of expand × hidden dim = {} × {dim} = {inner}, found {}; try {}",
        block.expand,
        block.headdim,
        nearest_divisor(inner, block.headdim)
    );
    Err(Problem::new("headdim", message))
}

/// The largest divisor of `number` that is no larger than `wanted` (at least 1).
fn nearest_divisor(number: usize, wanted: usize) -> usize {
    let highest = wanted.min(number).min(1 << 16);
    (1..=highest)
        .rev()
        .find(|divisor| number.is_multiple_of(*divisor))
        .unwrap_or(1)
}

pub(super) fn at_least_one(key: &str, value: usize) -> Result<(), Problem> {
    match value {
        0 => Err(Problem::new(key, "expected at least 1, found 0")),
        _ => Ok(()),
    }
}

fn check_dropout(key: &str, probability: f64) -> Result<(), Problem> {
    match (0.0..1.0).contains(&probability) {
        true => Ok(()),
        false => {
            let message = format!("expected a probability in [0, 1), found {probability}; 0 turns dropout off");
            Err(Problem::new(key, message))
        }
    }
}

fn product(key: &str, name: &str, a: usize, b: usize) -> Result<(), Problem> {
    match a.checked_mul(b) {
        Some(_) => Ok(()),
        None => Err(Problem::new(
            key,
            format!("{name} = {a} × {b} is beyond what this machine can count; make it smaller"),
        )),
    }
}

/// The block that the keys mean where no `block_type` says it.
fn infer(node: &Node, in_encoder: bool) -> Result<String, Problem> {
    let transformer = node.keys().any(|key| TRANSFORMER_KEYS.contains(&key));
    let mamba = node.keys().any(|key| MAMBA_KEYS.contains(&key));
    match (transformer, mamba) {
        (true, false) if in_encoder => Ok("transformerEncoder".to_string()),
        (true, false) => Ok("transformer".to_string()),
        (false, true) => Ok("mamba2".to_string()),
        _ => {
            let found: Vec<&str> = node.keys().collect();
            let message = format!(
                "expected a block: a map with the keys of a Transformer ({}), of Mamba2 ({}), or any with a block_type; \
                 found the keys [{}]",
                TRANSFORMER_KEYS.join(", "),
                MAMBA_KEYS.join(", "),
                found.join(", ")
            );
            Err(Problem::new("", message).or_at(&node.at))
        }
    }
}

const TRANSFORMER_KEYS: [&str; 7] = [
    "attn_head_dims",
    "attn_num_heads",
    "attn_use_rot_embs",
    "attn_dropout",
    "ff_multiplier",
    "ff_dropout",
    "use_flash_attn",
];
const MAMBA_KEYS: [&str; 4] = ["d_state", "d_conv", "expand", "headdim"];
