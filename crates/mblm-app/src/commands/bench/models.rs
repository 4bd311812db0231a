//! The models that can be measured by name: the models of the project's measurements and
//! performance goals.

use std::path::Path;

use mblm::blocks::{Mamba1, Mamba2, PositionEmbedding, Transformer};
use mblm::config::{ModelConfig, Preset};

use super::args::BenchModel;

/// Returns the model of this name: the preset `small` or a variant of it.
pub(super) fn named(model: BenchModel) -> ModelConfig {
    let small = Preset::Small
        .experiment(Path::new(""), Path::new(""))
        .params
        .architecture;
    let config = small.model().clone();
    match model {
        BenchModel::Transformer => config,
        BenchModel::Mamba1 => config.block(0, Mamba1::new(16)),
        BenchModel::Mamba2 => config.block(0, Mamba2::new(64, 64)),
        BenchModel::Flat => ModelConfig::new([config.context()])
            .dims(&config.hidden_dims[..1])
            .layers([config.num_layers.iter().sum()])
            .blocks(config.block[0].clone()),
        BenchModel::TwoStages => large([1024, 8], [25, 21]).block(0, Mamba2::new(128, 64)),
        BenchModel::ThreeStages => large([8192, 16, 8], [9, 8, 8]).block(0, Mamba2::new(128, 64)),
        BenchModel::OneStage => {
            large([8192], [42]).blocks(Transformer::new(16, 64).pos_emb_type(PositionEmbedding::Fixed))
        }
    }
}

/// Transformers of width 1024.
fn large<const STAGES: usize>(seq_lens: [usize; STAGES], layers: [usize; STAGES]) -> ModelConfig {
    ModelConfig::new(seq_lens)
        .dims([1024; STAGES])
        .layers(layers)
        .blocks(Transformer::new(16, 64))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use mblm::config::{Architecture, Precision};
    use mblm::model::Chunking;
    use mblm::train::{MemoryEstimate, Workload};

    use super::*;

    #[test]
    fn large_models_have_the_parameters_that_their_names_say() {
        for (model, millions) in [
            (BenchModel::TwoStages, 359),
            (BenchModel::ThreeStages, 363),
            (BenchModel::OneStage, 361),
        ] {
            let parameters = Architecture::Decoder(named(model)).parameter_counts().total;
            assert_eq!((parameters as f64 / 1e6).round() as u64, millions, "{model:?}");
        }
    }

    /// The peak memory of training on an H100: benchmarks/results/2026-11-27-h100.md.
    #[test]
    fn memory_of_training_is_estimated_within_a_tenth() {
        for (model, batch_size, len, gib) in [
            (BenchModel::TwoStages, 1, 8192, 12.08),
            (BenchModel::TwoStages, 6, 8192, 25.49),
            (BenchModel::TwoStages, 12, 8192, 30.11),
            (BenchModel::OneStage, 1, 8192, 15.27),
            (BenchModel::OneStage, 4, 8192, 23.49),
            (BenchModel::OneStage, 8, 8192, 31.71),
            (BenchModel::ThreeStages, 1, 262_144, 17.30),
            (BenchModel::ThreeStages, 1, 1 << 20, 23.46),
            (BenchModel::Transformer, 16, 2048, 1.96),
        ] {
            let architecture = Architecture::Decoder(named(model));
            let work = Workload {
                architecture: &architecture,
                batch_size,
                len,
                precision: Precision::Auto,
                gpu: true,
                chunking: Chunking::default(),
                moments: 2,
            };
            let estimate = MemoryEstimate::of(&work);
            let found = estimate.total() as f64 / f64::from(1 << 30);
            assert!(
                (found / gib - 1.0).abs() < 0.1,
                "{model:?} {batch_size} × {len}: {found:.2} for {gib}"
            );
        }
    }

    #[test]
    fn every_named_model_is_valid() {
        for model in BenchModel::value_variants() {
            named(*model).validate().unwrap();
        }
    }
}
