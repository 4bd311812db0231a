//! Turns YAML text and `--set` overrides into a tree with positions, and configurations into YAML
//! text.
//!
//! An override is `a.b=v`: dots go down maps, and down lists by index from 0; `v` is YAML itself.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_saphyr::MessageFormatter;

use super::tree::{Key, Node, Origin, Problem, Value};
use super::written;
use crate::{Error, Result};

/// The maximum size of a configuration file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The maximum number of names in the path of an override; no configuration comes near it.
const MAX_DEPTH: usize = 64;

/// Returns the text of a configuration file.
///
/// # Errors
/// A folder, a file that cannot be read or is too long, or bytes that are not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    if path.is_dir() {
        return Err(Error::file(
            path,
            "expected a YAML file, found a folder; name the file inside it",
        ));
    }
    let file = std::fs::File::open(path).map_err(|error| Error::file(path, error))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::file(path, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("expected a configuration of at most {MAX_BYTES} bytes, found more; is this the data?");
        return Err(Error::file(path, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::file(
            path,
            format!("expected YAML in UTF-8, found other bytes at offset {at}; is this the data?"),
        )
    })
}

/// Returns whether the map of a configuration has this key at its top; `false` for text that is not
/// YAML.
pub fn has_key(text: &str, key: &str) -> bool {
    parse(text, "", &[]).is_ok_and(|root| root.get(key).is_some())
}

/// Parses one YAML document and applies the overrides in order.
pub(super) fn parse(text: &str, source: &str, overrides: &[String]) -> Result<Node> {
    let mut root = parse_text(text).map_err(|problem| problem.into_error(source))?;
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|(key, _)| !only_holds_anchors(&key.name));
    }
    for argument in overrides {
        let origin = Origin::Override(argument.as_str().into());
        apply(&mut root, argument, &origin).map_err(|problem| problem.or_at(&origin).into_error(source))?;
    }
    Ok(root)
}

/// Returns a configuration as YAML text.
pub(super) fn write(config: &impl Serialize) -> Result<String> {
    serde_saphyr::to_string(config).map_err(|error| Error::config(format!("cannot be written as YAML: {error}")))
}

/// Returns whether a key at the top only holds an anchor for other keys (`x-block: &block …`,
/// `.block: &block …`), as in compose files and continuous integration.
fn only_holds_anchors(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with('.')
}

/// Parses YAML text. Numbers have the syntax of YAML 1.1, which PyYAML reads: `010` is 8.
fn parse_text(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut root: Node = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let at = error.location().map(Origin::of).unwrap_or_default();
        Problem::new("", format!("not valid YAML: {}", message_of(error))).or_at(&at)
    })?;
    written::note(&mut root, text);
    Ok(root)
}

/// Returns the message of a YAML error without the position, which the caller writes in front.
fn message_of(error: &serde_saphyr::Error) -> String {
    serde_saphyr::UserMessageFormatter.format_message(error).into_owned()
}

fn apply(root: &mut Node, argument: &str, origin: &Origin) -> Result<(), Problem> {
    let Some((path, text)) = argument.split_once('=') else {
        return Err(Problem::new("", "expected KEY=VALUE, as in train.learning_rate=3e-4"));
    };
    if path.split('.').count() > MAX_DEPTH {
        return Err(Problem::new(
            "",
            format!("expected a path of at most {MAX_DEPTH} names, found more"),
        ));
    }
    let mut value = parse_text(text).map_err(|problem| Problem::new("", problem.to_string()))?;
    value.relocate(origin);
    let mut node = root;
    for (depth, step) in path.split('.').enumerate() {
        node = child(node, step, origin)
            .map_err(|message| Problem::new(path.split('.').take(depth).collect::<Vec<_>>().join("."), message))?;
    }
    *node = value;
    Ok(())
}

/// Returns the entry `step` of a map or list. A map gets the entry if it has none; null becomes a
/// map.
fn child<'a>(node: &'a mut Node, step: &str, origin: &Origin) -> Result<&'a mut Node, String> {
    if step.is_empty() {
        return Err("expected names with single dots between them, found an empty name".to_string());
    }
    if let Value::Null = node.value {
        *node = Node {
            at: origin.clone(),
            value: Value::Map(Vec::new()),
            written: None,
        };
    }
    match &mut node.value {
        Value::List(items) => {
            let length = items.len();
            let item = step.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            item.ok_or_else(|| format!("expected an index below {length}, the length of this list, found \"{step}\""))
        }
        Value::Map(entries) => {
            let index = entries.iter().position(|(key, _)| key.name == step).unwrap_or_else(|| {
                let key = Key {
                    at: origin.clone(),
                    name: step.to_string(),
                    is_anchor: false,
                };
                entries.push((
                    key,
                    Node {
                        at: origin.clone(),
                        value: Value::Null,
                        written: None,
                    },
                ));
                entries.len() - 1
            });
            Ok(&mut entries[index].1)
        }
        _ => Err(format!("is neither a map nor a list, so it has no \"{step}\"")),
    }
}
