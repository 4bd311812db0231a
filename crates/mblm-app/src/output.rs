//! Prints results to stdout, as JSON with a schema version or as text, and notes to stderr.

use std::io::{self, Write};

pub use mblm::task::grouped;
use serde_json::{Map, Value, json};

/// The version of the JSON of `--json`; it is raised if the meaning of a key changes.
const SCHEMA_VERSION: u64 = 1;

/// Prints an object as JSON with `schema_version` first.
pub fn json(value: Value) -> io::Result<()> {
    let mut object = Map::new();
    object.insert("schema_version".into(), SCHEMA_VERSION.into());
    if let Value::Object(fields) = value {
        object.extend(fields);
    }
    let mut text = String::new();
    write_value(&Value::Object(object), 0, &mut text);
    line(&text)
}

/// Formats JSON over several lines, two spaces per level; a list of numbers and strings stays on
/// one line.
fn write_value(value: &Value, level: usize, out: &mut String) {
    let (open, close, items): (_, _, Vec<(String, &Value)>) = match value {
        Value::Object(fields) if !fields.is_empty() => {
            let named = fields.iter().map(|(key, value)| (format!("{}: ", json!(key)), value));
            ('{', '}', named.collect())
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            ('[', ']', items.iter().map(|item| (String::new(), item)).collect())
        }
        flat => return out.push_str(&flat.to_string()),
    };
    out.push(open);
    for (place, (key, item)) in items.into_iter().enumerate() {
        out.push_str(if place == 0 { "\n" } else { ",\n" });
        out.push_str(&"  ".repeat(level + 1));
        out.push_str(&key);
        write_value(item, level + 1, out);
    }
    out.push('\n');
    out.push_str(&"  ".repeat(level));
    out.push(close);
}

/// Prints a line.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a line to stderr. Errors are ignored: nobody reading stderr is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Formats a number of bytes: 1.5 GiB.
pub fn bytes(number: u64) -> String {
    indicatif::BinaryBytes(number).to_string()
}

/// Lists the first problems, and the number of the others of `all`.
pub fn listed(problems: impl ExactSizeIterator<Item = String>, all: usize) -> impl Iterator<Item = String> {
    let more = match all - problems.len() {
        0 => None,
        1 => Some("1 more problem; --limit lists more".to_string()),
        more => Some(format!("{} more problems; --limit lists more", grouped(more as u64))),
    };
    problems.chain(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_in_one_line_and_everything_reads_back() {
        let value = json!({
            "bytes": [1, 2, 255], "none": [], "empty": {}, "text": "a \"b\"\n",
            "samples": [{"x": 1.5, "list": ["a", null]}, []],
        });
        let mut text = String::new();
        write_value(&value, 0, &mut text);
        assert!(
            text.starts_with("{\n  \"bytes\": [1,2,255],\n  \"none\": [],\n"),
            "{text}"
        );
        assert!(
            text.contains("\n      \"list\": [\"a\",null]\n    },\n    []\n  ]\n}"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
