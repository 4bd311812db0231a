//! Checks of numbers among the keys of blocks, and the keys of a block as a map.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;

use super::spec::Keys;
use crate::config::Problem;

/// Returns the keys of a block and their values in field order, from a struct that serializes: an
/// implementation of [`BlockSpec::keys`](super::BlockSpec::keys).
///
/// A value that is not a map has no keys.
pub fn keys_of(block: &impl Serialize) -> Keys {
    match serde_json::to_value(block) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => Keys::new(),
    }
}

/// The JSON schema (draft 7) of a type, with the types in it written out.
pub fn schema_of<T: JsonSchema>() -> serde_json::Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().into()
}

pub(crate) fn at_least_one(key: &str, value: usize) -> Result<(), Problem> {
    match value {
        0 => Err(Problem::new(key, "expected at least 1, found 0")),
        _ => Ok(()),
    }
}

pub(super) fn probability(key: &str, probability: f64) -> Result<(), Problem> {
    match (0.0..1.0).contains(&probability) {
        true => Ok(()),
        false => {
            let message = format!("expected a probability in [0, 1), found {probability}; 0 turns dropout off");
            Err(Problem::new(key, message))
        }
    }
}

/// Checks that the width `name`, a product of two numbers, does not overflow.
pub(super) fn countable(key: &str, name: &str, a: usize, b: usize) -> Result<(), Problem> {
    match a.checked_mul(b) {
        Some(_) => Ok(()),
        None => Err(Problem::new(
            key,
            format!("{name} = {a} × {b} is too large for this machine; make it smaller"),
        )),
    }
}
