//! The JSON schema of a configuration, from the types that parse it: for editors, and for the list
//! of all keys.

use mblm::blocks::{BlockRegistry, schema_of};
use mblm::config::{IoConfig, MaskReduce, ModelConfig, ResumeConfig, Summary, TrainConfig};
use serde_json::{Map, Value, json};

/// Returns the JSON schema (draft 7) of a configuration whose blocks are those of `registry`.
pub(super) fn schema(registry: &BlockRegistry) -> Value {
    let mut model = schema_of::<ModelConfig>();
    let block = block(registry);
    let one_for_all = "Each stage's block, or one block for all stages.";
    model["properties"]["block"] = json!({
        "description": one_for_all, "anyOf": [{ "type": "array", "items": block }, block],
    });
    let input_seq_len = json!({ "description": "Bytes of a sample.", "type": "integer", "minimum": 1 });
    let decoder = with(&model, &[("input_seq_len", input_seq_len.clone())]);
    let mask_token_id =
        json!({ "description": "Id that stands for a masked-out byte.", "type": "integer", "minimum": 0 });
    let mut strategy = schema_of::<MaskReduce>();
    strategy["description"] = "When a patch is visible to attention, given which of its bytes are.".into();
    let mut encoder = with(
        &json!({ "type": "object", "properties": {}, "required": [] }),
        &[
            ("input_seq_len", input_seq_len),
            ("mask_token_id", mask_token_id),
            ("mblm_config", with(&model, &[])),
        ],
    );
    encoder["properties"]["mask_reduce_strat"] = strategy;
    let mut train = closed(schema_of::<TrainConfig>());
    let patterns = json!({ "type": "array", "items": { "type": "string" } });
    train["properties"]["decay"]["anyOf"] = json!([{ "enum": ["all", "matrices"] }, patterns]);
    train["properties"]["decay"]["default"] = "all".into();
    train["properties"]["schedule"]["default"] = "cosine".into();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "mblm configuration",
        "type": "object",
        "required": ["io", "params", "train"],
        "properties": {
            "io": closed(schema_of::<IoConfig>()),
            "params": { "description": "The model and the length of its samples.", "anyOf": [decoder, encoder] },
            "train": train,
            "resume": closed(schema_of::<ResumeConfig>()),
            "summary": closed(schema_of::<Summary>()),
        },
    })
}

/// The schema of one block: the keys of any block type of the registry.
fn block(registry: &BlockRegistry) -> Value {
    let named = |(name, schema): (&str, Option<&Value>)| match schema {
        Some(schema) => {
            let mut schema = closed(schema.clone());
            schema["title"] = name.into();
            schema["properties"]["block_type"] = json!({ "description": "The block.", "const": name });
            schema
        }
        None => json!({
            "title": name, "type": "object", "required": ["block_type"],
            "properties": { "block_type": { "const": name } },
        }),
    };
    json!({ "anyOf": registry.schemas().map(named).collect::<Vec<_>>() })
}

/// Adds required properties before the properties of an object schema.
fn with(schema: &Value, more: &[(&str, Value)]) -> Value {
    let mut all: Map<String, Value> = more
        .iter()
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect();
    all.extend(schema["properties"].as_object().cloned().unwrap_or_default());
    let mut required: Vec<Value> = more.iter().map(|(key, _)| (*key).into()).collect();
    required.extend(schema["required"].as_array().cloned().unwrap_or_default());
    let mut found = closed(schema.clone());
    found["properties"] = all.into();
    found["required"] = required.into();
    found
}

/// Forbids other keys in an object schema, and removes `$schema`, which belongs at the root only.
fn closed(mut schema: Value) -> Value {
    if let Value::Object(keys) = &mut schema {
        keys.remove("$schema");
        keys.insert("additionalProperties".into(), false.into());
    }
    schema
}
