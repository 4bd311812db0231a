//! What is printed: results to stdout, as JSON with a schema version or as text, and notes to stderr.

use std::io::{self, Write};

pub use mblm::task::grouped;
use serde_json::{Map, Value};

/// The version of the JSON that `--json` prints; a change of meaning raises it.
const SCHEMA_VERSION: u64 = 1;

/// Prints an object as JSON with `schema_version` first.
pub fn json(value: Value) -> io::Result<()> {
    let mut object = Map::new();
    object.insert("schema_version".into(), SCHEMA_VERSION.into());
    if let Value::Object(fields) = value {
        object.extend(fields);
    }
    line(&format!("{:#}", Value::Object(object)))
}

/// Prints a line.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Says a line on stderr. That nobody listens there any more is no reason to end the work, so errors are passed over.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A number of bytes for people: 1.5 GiB.
pub fn bytes(number: u64) -> String {
    indicatif::BinaryBytes(number).to_string()
}

/// The first problems of so many in all, and how many are left.
pub fn listed(problems: impl ExactSizeIterator<Item = String>, all: usize) -> impl Iterator<Item = String> {
    let more = match all - problems.len() {
        0 => None,
        1 => Some("1 more problem; --limit lists more".to_string()),
        more => Some(format!("{} more problems; --limit lists more", grouped(more as u64))),
    };
    problems.chain(more)
}
