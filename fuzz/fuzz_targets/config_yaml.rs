//! Fuzzes configurations: YAML text, and after each NUL byte an override (`train.seed=1`), read as
//! an experiment; the same text read as the JSON of a model.
//!
//! Everything that is computed from an accepted configuration before anything is built must
//! succeed. The configuration must be equal after it has been written and read again.
#![no_main]

use candle_core::Device;
use mblm::config::{Architecture, Experiment, ModelConfig};
use mblm::train::{Recipe, RunConfig, estimate_memory, spread};

/// The maximum number of overrides; nobody types as many.
const MAX_OVERRIDES: usize = 16;

/// The maximum number of points; no run logs as many.
const MAX_POINTS: usize = 1000;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    mblm_fuzz::limited(data.len(), || {
        let mut parts = text.split('\0');
        let yaml = parts.next().unwrap_or_default();
        let overrides: Vec<String> = parts.take(MAX_OVERRIDES).map(String::from).collect();
        if let Ok(experiment) = Experiment::from_yaml_str(yaml, "fuzz.yaml", &overrides) {
            check_experiment(&experiment);
        }
        if let Ok(architecture) = serde_json::from_str::<Architecture>(text) {
            check_architecture(&architecture);
        }
        if let Ok(model) = serde_json::from_str::<ModelConfig>(text)
            && model.validate().is_ok()
        {
            let _ = model.parameter_counts();
        }
    });
});

fn check_experiment(experiment: &Experiment) {
    experiment.validate().expect("what is read has been checked");
    check_architecture(&experiment.params.architecture);
    let _ = estimate_memory(experiment, &Device::Cpu);
    let plan = RunConfig::from(experiment).plan();
    let schedule = Recipe::of(&experiment.train, &plan).schedule;
    for step in [0, 1, plan.steps / 2, plan.steps] {
        assert!(schedule.lr(step).is_finite(), "the learning rate of step {step}");
    }
    let _ = spread(0, plan.batches, experiment.io.validate_amount.min(MAX_POINTS));
    let written = experiment.to_yaml_string().expect("paths from YAML are UTF-8");
    let again = Experiment::from_yaml_str(&written, "written.yaml", &[]);
    assert_eq!(again.expect("what is written is read"), *experiment, "{written}");
}

fn check_architecture(architecture: &Architecture) {
    if architecture.validate().is_err() {
        return;
    }
    let _ = architecture.parameter_counts();
    let json = architecture.to_json().expect("a configuration has a JSON form");
    let again: Architecture = serde_json::from_value(json).expect("what is written is read");
    assert_eq!(again, *architecture);
}
