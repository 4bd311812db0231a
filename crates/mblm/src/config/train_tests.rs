//! Tests of the map `train`.

use serde_json::{Value, json};

use super::train::*;
use crate::config::DecayedParameters;
use crate::config::tree::Node;

/// A configuration with the keys that have no default and these.
fn read(more: &Value) -> Result<TrainConfig, String> {
    let mut keys = json!({
        "target_elements": 1000, "target_elements_strategy": "batch", "batch_size": 2, "learning_rate": 1e-3,
        "gradient_accumulate_every": 1,
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let train: TrainConfig = Node::from(keys).read(&[]).map_err(|problem| problem.to_string())?;
    train.check().map_err(|problem| problem.to_string())?;
    Ok(train)
}

fn patterns(patterns: &[&str]) -> DecayedParameters {
    DecayedParameters::Matching(patterns.iter().map(ToString::to_string).collect())
}

#[test]
fn the_default_is_what_a_configuration_without_the_keys_means() {
    let read = read(&json!({})).unwrap();
    let default = TrainConfig {
        target_elements: 1000,
        target_elements_strategy: ElementCount::Batch,
        batch_size: 2,
        lr: 1e-3,
        grad_accum: 1,
        ..TrainConfig::default()
    };
    assert_eq!(read, default);
    let keys = serde_json::to_value(&read).unwrap();
    let mut keys: Vec<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let mut expected = [
        "target_elements",
        "target_elements_strategy",
        "warmup_steps_perc",
        "batch_size",
        "shuffle_train",
        "shuffle_eval",
        "max_eval_steps",
        "learning_rate",
        "gradient_clipping",
        "gradient_accumulate_every",
        "seed",
        "precision",
        "optimizer",
        "weight_decay",
        "save_state_every",
        "keep_states",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

#[test]
fn optimizers_and_schedules_survive_writing() {
    for keys in [
        json!({"optimizer": "sgd", "momentum": 0.9, "schedule": "constant"}),
        json!({"optimizer": "adamw", "weight_decay": 0.1, "decay": "matrices", "schedule": "wsd"}),
        json!({"optimizer": "adamw", "decay": ["*.weight"], "schedule": "wsd", "cooldown_steps_perc": 0.9}),
    ] {
        let train = read(&keys).unwrap();
        let written = serde_json::to_value(&train).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            assert_eq!(written[key], *value);
        }
        assert_eq!(serde_json::from_value::<TrainConfig>(written).unwrap(), train);
    }
    let train = read(&json!({"optimizer": "adamw", "decay": ["a", "b*"]})).unwrap();
    assert_eq!(train.decay, patterns(&["a", "b*"]));
    assert_eq!(read(&json!({"schedule": "wsd"})).unwrap().cooldown_steps(), 0.2);
}

#[test]
fn what_cannot_be_used_is_named() {
    for (keys, message) in [
        (
            json!({"schedule": "cosin"}),
            "schedule: expected one of cosine, wsd, constant, found \"cosin\"; did you mean \"cosine\"?",
        ),
        (
            json!({"optimizer": "sdg"}),
            "optimizer: expected one of adam, adamw, sgd, found \"sdg\"; did you mean \"sgd\"?",
        ),
        (
            json!({"optimizer": "adamw", "decay": "matrixes"}),
            "decay: expected one of all, matrices, found \"matrixes\"; did you mean \"matrices\"?",
        ),
        (
            json!({"optimizer": "adamw", "decay": 1}),
            "decay: expected all, matrices, or a list of parameter names, found 1",
        ),
        (
            json!({"optimizer": "adamw", "decay": []}),
            "decay: expected patterns of parameter names, found an empty list; set weight_decay: 0 for no decay",
        ),
        (
            json!({"decay": "matrices"}),
            "decay: adam has no weight decay; set optimizer: adamw, or leave the key out",
        ),
        (
            json!({"optimizer": "sgd", "weight_decay": 0.1}),
            "weight_decay: expected 0 for sgd, found 0.1; set optimizer: adamw",
        ),
        (
            json!({"momentum": 0.9}),
            "momentum: adam has no such key; set optimizer: sgd, or leave it out",
        ),
        (
            json!({"optimizer": "sgd", "momentum": 1.0}),
            "momentum: expected a number in [0, 1), found 1",
        ),
        (
            json!({"cooldown_steps_perc": 0.1}),
            "cooldown_steps_perc: only the schedule wsd cools down; set schedule: wsd, or leave the key out",
        ),
        (
            json!({"schedule": "wsd", "cooldown_steps_perc": 20}),
            "cooldown_steps_perc: expected a share in [0, 1], not a percentage, found 20",
        ),
        (
            json!({"schedule": "wsd", "warmup_steps_perc": 0.5, "cooldown_steps_perc": 0.6}),
            "cooldown_steps_perc: expected at most 1 together with warmup_steps_perc: 0.5, found 0.6; lower one of them",
        ),
        (
            json!({"scedule": "wsd"}),
            "unknown key \"scedule\"; did you mean \"schedule\"?",
        ),
    ] {
        assert_eq!(read(&keys).unwrap_err(), message);
    }
}
