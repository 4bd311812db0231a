//! A user's block: registered by name, trained by candle's autograd, decoded through its state.

#[path = "../examples/lstm_stage.rs"]
mod lstm_stage;

mod support;

use candle_core::{DType, Device};
use mblm::model::{BlockRegistry, Mblm, Seeded};

fn model(dtype: DType) -> Mblm {
    let config = lstm_stage::config().expect("the example's configuration");
    Mblm::new(&config, &lstm_stage::registry(), &Seeded(3), dtype, &Device::Cpu).expect("the model builds")
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
    let config = lstm_stage::config().expect("the example's configuration");
    let error = Mblm::new(&config, &BlockRegistry::default(), &Seeded(3), DType::F32, &Device::Cpu)
        .err()
        .expect("lstm is not built in")
        .to_string();
    assert!(
        error.contains("\"lstm\"") && error.contains("transformer, mamba2, mamba1"),
        "{error}"
    );
}
