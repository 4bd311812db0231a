//! The number of parameters, computed from the configuration alone.
//!
//! With V = `num_tokens`, p = P_{n+1}·…·P_N the bytes of a patch, stage n of a hierarchy has
//!
//! ```text
//! token embedding        V·D_N                            + for n < N: 2·p·D_N + p·D_N·D_n + D_n + 2·D_n
//! position table         P_n·D_n                          if `fixed`
//! start token            D_n                              decoders only
//! block                  its layers and final norm
//! projection to n + 1    (D_n + 1)·D_{n+1}·P_{n+1}        for n < N
//! ```
//!
//! and the logits add (D_N + 1)·V. Sums and products saturate, so that no configuration overflows.

use super::model::{Architecture, ModelConfig};
use crate::blocks::{Count, PositionEmbedding};

/// Parameters of a model, counted without making it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterCounts {
    /// Parameters of each stage: token embedding, position table, start token, block, projection to
    /// the next stage.
    pub per_stage: Vec<u64>,
    /// Parameters of the logits layer.
    pub to_logits: u64,
    /// Stages whose block does not report its cost. Its parameters are known only after it is
    /// built, and none of these counts includes them.
    pub uncounted: Vec<usize>,
    /// The sum of all counts.
    pub total: u64,
}

impl Architecture {
    /// Counts the model's parameters, except those of blocks that do not report their cost (see
    /// [`ParameterCounts::uncounted`]).
    pub fn parameter_counts(&self) -> ParameterCounts {
        count(self.model(), matches!(self, Self::Decoder(_)))
    }

    /// Returns the multiplications (each with an addition) of weights with activations in a forward
    /// pass, for one byte of context.
    ///
    /// A stage's matrices count once for the bytes of its patch. Not counted: attention's products
    /// of activations, scans, convolutions, and start rows. `None` if a block does not report its
    /// cost.
    pub fn multiplications_per_byte(&self) -> Option<f64> {
        let model = self.model();
        let local = model.hidden_dims.last().copied().unwrap_or(0) as f64;
        let stages = model.block.iter().zip(&model.num_layers).zip(&model.hidden_dims);
        let logits = local * model.num_tokens as f64;
        stages
            .enumerate()
            .try_fold(logits, |total, (stage, ((block, layers), dim))| {
                let patch = model.patch_bytes(stage) as f64;
                let mut weights = block.cost(*dim, *layers)?.multiplications as f64;
                let next = model.hidden_dims.get(stage + 1).zip(model.seq_lens.get(stage + 1));
                if let Some((next_dim, next_length)) = next {
                    weights += *dim as f64 * (patch * local + (next_dim * next_length) as f64);
                }
                Some(total + weights / patch)
            })
    }
}

impl ModelConfig {
    /// Counts a decoder's parameters, except those of blocks that do not report their cost (see
    /// [`ParameterCounts::uncounted`]).
    pub fn parameter_counts(&self) -> ParameterCounts {
        count(self, true)
    }
}

fn count(model: &ModelConfig, start_tokens: bool) -> ParameterCounts {
    let vocabulary = Count::of(model.num_tokens);
    let local = Count::of(model.hidden_dims.last().copied().unwrap_or(0));
    let stages = model
        .hidden_dims
        .iter()
        .zip(&model.num_layers)
        .zip(&model.seq_lens)
        .zip(&model.block);
    let mut uncounted = Vec::new();
    let per_stage: Vec<u64> = stages
        .enumerate()
        .map(|(stage, (((dim, layers), length), block))| {
            let cost = block.cost(*dim, *layers);
            let (dim, length) = (Count::of(*dim), Count::of(*length));
            let mut total = vocabulary * local;
            if let (Some(next_dim), Some(next_length)) =
                (model.hidden_dims.get(stage + 1), model.seq_lens.get(stage + 1))
            {
                let patch = Count::of(model.patch_bytes(stage)) * local;
                let projected = Count::of(*next_dim) * Count::of(*next_length);
                total = total + patch * Count::TWO + patch * dim + dim + dim * Count::TWO; // norm, linear, norm
                total = total + dim * projected + projected;
            }
            if block.position_embedding() == Some(PositionEmbedding::Fixed) {
                total = total + length * dim;
            }
            if start_tokens {
                total = total + dim;
            }
            match cost {
                Some(cost) => total = total + Count(cost.parameters),
                None => uncounted.push(stage),
            }
            total.0
        })
        .collect();
    let to_logits = (local * vocabulary + vocabulary).0;
    let total = per_stage
        .iter()
        .fold(to_logits, |total, stage| total.saturating_add(*stage));
    ParameterCounts {
        per_stage,
        to_logits,
        uncounted,
        total,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::{Architecture, ParameterCounts};
    use crate::blocks::BlockRegistry;
    use crate::model::{Model, Seeded};

    /// Configurations written by the published Python package, each with the sum of the sizes of
    /// its model's parameters.
    #[rustfmt::skip]
    const PUBLISHED: [(&str, u64); 7] = [
        // `decoder_1d_t`
        (r#"{"num_tokens": 257, "pad_token_id": 256, "hidden_dims": [32], "num_layers": [2], "seq_lens": [64], "train_checkpoint_chunks": null, "block": [{"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}]}"#, 35521),
        // `decoder_2d_m1t`
        (r#"{"num_tokens": 257, "pad_token_id": 256, "hidden_dims": [32, 32], "num_layers": [2, 2], "seq_lens": [16, 8], "train_checkpoint_chunks": null, "block": [{"block_type": "mamba1", "pos_emb_type": null, "d_state": 16, "d_conv": 4, "expand": 2, "headdim": 16, "dropout": 0.0}, {"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}]}"#, 79137),
        // `decoder_2d_st`
        (r#"{"num_tokens": 257, "pad_token_id": 256, "hidden_dims": [32, 32], "num_layers": [2, 2], "seq_lens": [16, 8], "train_checkpoint_chunks": null, "block": [{"block_type": "mamba2", "pos_emb_type": null, "d_state": 16, "d_conv": 4, "expand": 2, "headdim": 16, "dropout": 0.0}, {"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}]}"#, 75033),
        // `decoder_2d_tt`
        (r#"{"num_tokens": 257, "pad_token_id": 256, "hidden_dims": [48, 32], "num_layers": [2, 2], "seq_lens": [16, 8], "train_checkpoint_chunks": null, "block": [{"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}, {"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 8, "attn_num_heads": 4, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 4, "ff_dropout": 0.0, "use_flash_attn": false}]}"#, 107825),
        // `decoder_2d_tt_rope`
        (r#"{"num_tokens": 200, "pad_token_id": 199, "hidden_dims": [32, 32], "num_layers": [1, 2], "seq_lens": [12, 6], "train_checkpoint_chunks": null, "block": [{"block_type": "transformer", "pos_emb_type": "rope", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}, {"block_type": "transformer", "pos_emb_type": "rope", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": false, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}]}"#, 57544),
        // `decoder_3d_stt`
        (r#"{"num_tokens": 257, "pad_token_id": 256, "hidden_dims": [48, 32, 32], "num_layers": [2, 1, 2], "seq_lens": [6, 4, 8], "train_checkpoint_chunks": null, "block": [{"block_type": "mamba2", "pos_emb_type": null, "d_state": 16, "d_conv": 4, "expand": 2, "headdim": 16, "dropout": 0.0}, {"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}, {"block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": false, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}]}"#, 166581),
        // `encoder_2d_ee`
        (r#"{"mask_token_id": 257, "mblm_config": {"num_tokens": 258, "pad_token_id": 256, "hidden_dims": [48, 32], "num_layers": [2, 2], "seq_lens": [16, 8], "train_checkpoint_chunks": null, "block": [{"block_type": "transformerEncoder", "pos_emb_type": "fixed", "attn_head_dims": 16, "attn_num_heads": 2, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}, {"block_type": "transformerEncoder", "pos_emb_type": "fixed", "attn_head_dims": 8, "attn_num_heads": 4, "attn_use_rot_embs": true, "attn_dropout": 0.0, "ff_multiplier": 2, "ff_dropout": 0.0, "use_flash_attn": false}]}}"#, 99522),
    ];

    fn counts(json: &str) -> ParameterCounts {
        let architecture: Architecture = serde_json::from_str(json).unwrap();
        architecture.validate().unwrap();
        architecture.parameter_counts()
    }

    #[test]
    fn equals_the_published_models() {
        for (json, parameters) in PUBLISHED {
            let counts = counts(json);
            assert_eq!(counts.total, parameters, "{json}");
            assert_eq!(counts.per_stage.iter().sum::<u64>() + counts.to_logits, parameters);
            assert!(counts.uncounted.is_empty());
        }
    }

    #[test]
    fn multiplications_are_those_of_the_matrices() {
        for (json, _) in PUBLISHED {
            let architecture: Architecture = serde_json::from_str(json).unwrap();
            let model = Model::new(&architecture, &BlockRegistry::default(), &Seeded(0), &Device::Cpu).unwrap();
            let config = architecture.model();
            let expected: f64 = model
                .parameters()
                .iter()
                .filter(|parameter| parameter.value().rank() == 2 && !parameter.name().ends_with("A_log"))
                // tables of embeddings are looked up
                .filter(|parameter| !parameter.name().contains("emb") || parameter.name().contains("_post"))
                .map(|parameter| {
                    let stage = parameter.name().split('.').find_map(|part| part.parse::<usize>().ok());
                    // token embeddings are counted from the local stage
                    let stage = match parameter.name().contains("_rev.") {
                        true => stage.map(|stage| config.num_stages() - 1 - stage),
                        false => stage,
                    };
                    let patch = stage.map_or(1, |stage| config.patch_bytes(stage));
                    parameter.value().elem_count() as f64 / patch as f64
                })
                .sum();
            let found = architecture.multiplications_per_byte().unwrap();
            assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected} {json}");
        }
    }

    /// The sizes of the models in the MBLM paper's experiments, in units of 0.1 million.
    #[test]
    fn equals_the_known_large_models() {
        let mamba = r#"{"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64}"#;
        let transformer =
            r#"{"attn_head_dims": 64, "attn_num_heads": 16, "attn_use_rot_embs": true, "pos_emb_type": "fixed"}"#;
        let tenths = |seq_lens: &str, dims: &str, layers: &str, blocks: &[&str]| {
            let json = format!(
                r#"{{"num_tokens": 256, "pad_token_id": 0, "hidden_dims": {dims}, "num_layers": {layers},
                    "seq_lens": {seq_lens}, "block": [{}]}}"#,
                blocks.join(", ")
            );
            (counts(&json).total as f64 / 1e5).round() / 10.0
        };
        assert_eq!(
            tenths("[1024, 8]", "[1024, 1024]", "[25, 21]", &[mamba, transformer]),
            358.9
        );
        let blocks = [mamba, transformer, transformer];
        assert_eq!(
            tenths("[8192, 16, 8]", "[1024, 1024, 1024]", "[9, 8, 8]", &blocks),
            362.9
        );
        assert_eq!(tenths("[8192]", "[1024]", "[42]", &[transformer]), 361.5);
    }

    #[test]
    fn leaves_custom_blocks_out_and_says_so() {
        let json = |block: &str| {
            format!(
                r#"{{"num_tokens": 10, "pad_token_id": 0, "hidden_dims": [4, 2], "num_layers": [1, 1],
                    "seq_lens": [5, 3], "block": [{block}, {{"block_type": "mamba1", "d_state": 1, "d_conv": 1,
                    "expand": 1, "headdim": 1}}]}}"#
            )
        };
        let custom = counts(&json(r#"{"block_type": "lstm", "bias": true}"#));
        assert_eq!(custom.uncounted, [0]);
        // table 10·2, norm 2·6, linear 6·4 + 4, norm 2·4; start token 4; projection (4 + 1)·(2·3)
        assert_eq!(custom.per_stage[0], 20 + 12 + 28 + 8 + 4 + 30);
        assert_eq!(custom.to_logits, 10 * 2 + 10);
    }
}
