//! What is printed: results to stdout, as JSON with a schema version or as text, and notes to stderr.

use std::io::{self, Write};

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

/// A number with thousands separators: 1_234_567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
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

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_separated() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1_000");
        assert_eq!(grouped(1_234_567), "1_234_567");
    }
}
