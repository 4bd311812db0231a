//! The models that can be measured by name: those that the project's own measurements and performance goals speak of.

use mblm::config::{BlockConfig, MambaConfig, ModelConfig, PositionEmbedding, TransformerConfig};

use crate::args::BenchModel;

/// The model of this name.
pub(super) fn named(model: BenchModel) -> ModelConfig {
    let (seq_lens, blocks, num_layers) = match model {
        BenchModel::Transformer => (vec![256, 8], vec![transformer(), transformer()], vec![4, 4]),
        BenchModel::Mamba1 => (
            vec![256, 8],
            vec![BlockConfig::Mamba1(mamba(16)), transformer()],
            vec![4, 4],
        ),
        BenchModel::Mamba2 => (
            vec![256, 8],
            vec![BlockConfig::Mamba2(mamba(64)), transformer()],
            vec![4, 4],
        ),
        BenchModel::Flat => (vec![2048], vec![transformer()], vec![8]),
    };
    ModelConfig {
        num_tokens: 257,
        pad_token_id: 256,
        hidden_dims: vec![256; seq_lens.len()],
        num_layers,
        seq_lens,
        train_checkpoint_chunks: None,
        block: blocks,
    }
}

fn transformer() -> BlockConfig {
    BlockConfig::Transformer(TransformerConfig {
        attn_head_dims: 64,
        attn_num_heads: 4,
        attn_use_rot_embs: true,
        attn_dropout: 0.0,
        ff_multiplier: 2,
        ff_dropout: 0.0,
        use_flash_attn: false,
        pos_emb_type: Some(PositionEmbedding::Fixed),
    })
}

fn mamba(d_state: usize) -> MambaConfig {
    MambaConfig {
        d_state,
        d_conv: 4,
        expand: 2,
        headdim: 64,
        dropout: 0.0,
        pos_emb_type: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_named_model_is_valid() {
        for model in BenchModel::value_variants() {
            named(*model).validate().unwrap();
        }
    }
}
