//! The models that can be measured by name: those that the project's own measurements and performance goals speak of.

use std::path::Path;

use mblm::config::{BlockConfig, MambaConfig, ModelConfig, Preset};

use crate::args::BenchModel;

/// The model of this name: the preset `small`, or what differs from it.
pub(super) fn named(model: BenchModel) -> ModelConfig {
    let small = Preset::Small
        .experiment(Path::new(""), Path::new(""))
        .params
        .architecture;
    let mut config = small.model().clone();
    match model {
        BenchModel::Transformer => {}
        BenchModel::Mamba1 => config.block[0] = BlockConfig::Mamba1(mamba(16)),
        BenchModel::Mamba2 => config.block[0] = BlockConfig::Mamba2(mamba(64)),
        BenchModel::Flat => {
            config.seq_lens = vec![config.context()];
            config.num_layers = vec![config.num_layers.iter().sum()];
            config.hidden_dims.truncate(1);
            config.block.truncate(1);
        }
    }
    config
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
