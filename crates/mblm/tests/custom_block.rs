//! A user's block: registered by name, trained by candle's autograd, decoded through its state.

#[path = "../examples/lstm_stage.rs"]
mod lstm_stage;

mod support;

use candle_core::{DType, Device};
use mblm::blocks::BlockRegistry;
use mblm::config::{Architecture, Experiment, ModelConfig, Precision};
use mblm::model::{Chunking, Mblm, Seeded};
use mblm::train::Workload;

fn model(dtype: DType) -> Mblm {
    let config = lstm_stage::config();
    Mblm::new(&config, &BlockRegistry::default(), &Seeded(3), dtype, &Device::Cpu).expect("the model builds")
}

/// The example's model as a program reads it that does not know the block.
fn read() -> ModelConfig {
    let json = serde_json::to_string(&lstm_stage::config()).expect("JSON");
    serde_json::from_str(&json).expect("a configuration")
}

#[test]
fn it_trains() {
    let (before, after) = lstm_stage::train(&model(DType::F32), 40).expect("training");
    assert!(before > 5.0 && after < 0.7 * before, "from {before} to {after}");
}

#[test]
fn its_gradients_equal_finite_differences() {
    support::check_gradients(&model(DType::F64), 3);
}

#[test]
fn forward_equals_prefill_and_steps() {
    support::check_splits(&model(DType::F64).into(), 100, &[1, 7, 8, 9, 63, 64, 99]);
}

#[test]
fn an_unregistered_name_lists_the_known_ones() {
    let error = Mblm::new(&read(), &BlockRegistry::default(), &Seeded(3), DType::F32, &Device::Cpu)
        .err()
        .expect("lstm is not built in")
        .to_string();
    assert!(
        error.contains("\"lstm\"") && error.contains("transformer, mamba2, mamba1"),
        "{error}"
    );
}

#[test]
fn a_configuration_names_it_where_it_is_registered() {
    let mut config = read();
    assert_eq!(config, lstm_stage::config());
    assert_eq!(config.block[1].dropout(), None);
    config.resolve(&lstm_stage::registry()).expect("a known block");
    assert_eq!(config.block[1].dropout(), Some(0.0));
    Mblm::new(&read(), &lstm_stage::registry(), &Seeded(3), DType::F32, &Device::Cpu).expect("the model builds");
}

#[test]
fn its_keys_are_checked_where_they_stand() {
    let yaml = "\
io: {name_model: a, output_dir: a, dataset_dir: a, dataset_id: bytes, num_models_to_save: 1, validate_amount: 1,
     log_train_loss_amount: 1}
params: {input_seq_len: 32, num_tokens: 257, pad_token_id: 256, seq_lens: [32], hidden_dims: [8], num_layers: [1],
         block: {block_type: lstm, forget_bia: 1.0}}
train: {target_elements: 100, target_elements_strategy: batch, batch_size: 1, learning_rate: 1.0,
        gradient_accumulate_every: 1}
";
    let error =
        Experiment::from_yaml_str_with(yaml, "my.yaml", &[], &lstm_stage::registry()).expect_err("a misspelt key");
    let expected = "unknown key \"forget_bia\" in params.block; did you mean \"forget_bias\"?";
    assert_eq!(error.to_string(), format!("my.yaml:4:36: {expected}"));
}

/// Only what is known to have no dropout goes in chunks: a block's memory is planned as it is
/// computed.
#[test]
fn its_first_stage_is_planned_in_chunks_once_it_tells_its_dropout() {
    let takes_chunks = |model: ModelConfig| {
        let work = Workload {
            architecture: &Architecture::Decoder(model),
            batch_size: 1,
            len: 1 << 20,
            precision: Precision::Auto,
            gpu: false,
            chunking: Chunking::default(),
            moments: 2,
        };
        work.takes_chunks()
    };
    let first = |block: &mblm::config::ModelConfig| ModelConfig::new([1024, 8]).blocks(block.block[1].clone());
    assert!(takes_chunks(first(&lstm_stage::config())));
    assert!(!takes_chunks(first(&read())));
    let mut registry = BlockRegistry::default();
    registry.register_fn("lstm", |_, _| unreachable!("nothing is built"));
    let mut closure = read();
    closure.resolve(&registry).expect("a known block");
    assert!(!takes_chunks(first(&closure)));
}
