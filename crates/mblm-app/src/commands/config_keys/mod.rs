//! `mblm config schema` and `mblm config keys`: the keys of a configuration, from the types that
//! parse it.

pub(crate) mod args;
mod schema;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::config::suggest;
use serde_json::{Map, Value, json};

use self::args::{KeysArgs, SchemaArgs};
use self::schema::schema;
use crate::command::{Command, Context, parse};
use crate::output;
use crate::usage::Usage;

/// The group of both commands.
const CONFIG: &str = "config";

/// `mblm config schema`.
pub(crate) struct Schema;

impl Command for Schema {
    fn name(&self) -> &'static str {
        "schema"
    }

    fn parent(&self) -> Option<&'static str> {
        Some(CONFIG)
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        SchemaArgs::augment_args(command)
    }

    fn run(&self, _: &ArgMatches, context: &Context) -> Result<ExitCode> {
        output::line(&serde_json::to_string_pretty(&schema(context.blocks()))?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `mblm config keys`.
pub(crate) struct KeysCommand;

impl Command for KeysCommand {
    fn name(&self) -> &'static str {
        "keys"
    }

    fn parent(&self) -> Option<&'static str> {
        Some(CONFIG)
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        KeysArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

/// A key of a configuration.
struct Key {
    /// The map that holds the key, with dots: `params.block (mamba2)`.
    map: String,
    name: String,
    /// The values that it takes: `a whole number`.
    values: String,
    /// `None` for a required key.
    default: Option<String>,
    meaning: String,
}

impl Key {
    fn path(&self) -> String {
        format!("{}.{}", self.map, self.name)
    }
}

fn run(args: &KeysArgs, context: &Context) -> Result<ExitCode> {
    let all = keys(&schema(context.blocks()));
    let wanted = args.key.as_deref().unwrap_or_default();
    let found: Vec<&Key> = all.iter().filter(|key| key.path().contains(wanted)).collect();
    if found.is_empty() {
        let names: Vec<&str> = all.iter().map(|key| key.name.as_str()).collect();
        let hint = suggest::hint(wanted, &names);
        return Err(Usage(format!(
            "no key contains \"{wanted}\"{hint}; `mblm config keys` lists all keys"
        ))
        .into());
    }
    if args.json {
        let list: Vec<Value> = found
            .iter()
            .map(|key| {
                json!({
                    "key": key.path(), "values": key.values, "required": key.default.is_none(), "default": key.default,
                    "meaning": key.meaning,
                })
            })
            .collect();
        output::json(json!({ "keys": list }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut map = "";
    for key in found {
        if key.map != map {
            let title = match args.markdown {
                true => format!(
                    "\n## `{0}`\n\n| key | values | default | meaning |\n|---|---|---|---|",
                    key.map
                ),
                false => format!("{}{}:", if map.is_empty() { "" } else { "\n" }, key.map),
            };
            output::line(&title)?;
            map = &key.map;
        }
        let default = key.default.as_deref().unwrap_or("required");
        output::line(&match args.markdown {
            true => format!("| `{}` | {} | {default} | {} |", key.name, key.values, key.meaning),
            false => format!("  {:<25} {} [{}; {default}]", key.name, key.meaning, key.values),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists all keys of a schema, in its order.
fn keys(schema: &Value) -> Vec<Key> {
    let mut all = Vec::new();
    let properties = &schema["properties"];
    add("io", &properties["io"], &mut all);
    let [decoder, encoder] = [0, 1].map(|index| &properties["params"]["anyOf"][index]);
    add("params", decoder, &mut all);
    for block in decoder["properties"]["block"]["anyOf"][1]["anyOf"]
        .as_array()
        .into_iter()
        .flatten()
    {
        add(
            &format!("params.block ({})", block["title"].as_str().unwrap_or("block")),
            block,
            &mut all,
        );
    }
    let mut masked = encoder.clone();
    if let Some(keys) = masked["properties"].as_object_mut() {
        keys.shift_remove("input_seq_len");
    }
    add("params (masked bytes)", &masked, &mut all);
    for map in ["train", "resume"] {
        add(map, &properties[map], &mut all);
    }
    all
}

fn add(map: &str, schema: &Value, all: &mut Vec<Key>) {
    let none = Map::new();
    let required = |name: &str| {
        schema["required"]
            .as_array()
            .is_some_and(|keys| keys.iter().any(|key| key == name))
    };
    for (name, property) in schema["properties"].as_object().unwrap_or(&none) {
        // the field's Rust documentation, in YAML terms
        let meaning = property["description"].as_str().unwrap_or_default();
        let meaning = meaning.replace("`None`", "`null`").replace(&format!(" (`{name}`)"), "");
        all.push(Key {
            map: map.into(),
            name: name.clone(),
            values: values(property),
            default: match (required(name), &property["default"]) {
                (true, _) => None,
                (false, Value::Null) => Some("none".into()),
                (false, default) => Some(default.to_string().replace('"', "")),
            },
            meaning: meaning.split_whitespace().collect::<Vec<_>>().join(" "),
        });
    }
}

/// Describes the values of a property in words.
fn values(property: &Value) -> String {
    if let Some(constant) = property["const"].as_str() {
        return constant.into();
    }
    let choices = |list: &Value| -> Vec<String> {
        let of = |one: &Value| match (one["const"].as_str(), one["enum"].as_array()) {
            (Some(word), _) => vec![word.to_string()],
            (None, Some(words)) => words.iter().filter_map(Value::as_str).map(String::from).collect(),
            (None, None) => vec![values(one)],
        };
        list.as_array()
            .into_iter()
            .flatten()
            .flat_map(of)
            .filter(|word| word != "nothing")
            .collect()
    };
    for alternatives in ["oneOf", "anyOf"] {
        let words = choices(&property[alternatives]);
        if !words.is_empty() {
            return words.join(", ");
        }
    }
    if let Some(words) = property["enum"].as_array() {
        return words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    }
    let word = |kind: &str| match kind {
        "integer" => "whole number",
        "number" => "number",
        "string" => "text",
        "boolean" => "true, false",
        "array" => "list",
        "object" => "map",
        _ => "nothing",
    };
    match &property["type"] {
        Value::String(kind) => word(kind).into(),
        Value::Array(kinds) => {
            let words = kinds
                .iter()
                .filter_map(Value::as_str)
                .filter(|kind| *kind != "null")
                .map(word);
            words.collect::<Vec<_>>().join(" or ")
        }
        _ => "any".into(),
    }
}
