//! The source text of scalars that PyYAML reads as strings and this parser as booleans or numbers:
//! `y`, `1e3`, `08`. A key that expects a string takes the source text; a key that expects a number
//! takes the number.
//!
//! The position of a value is the position of its first character in the file. Such a value ends
//! at the next blank, comma or closing bracket.

use super::problem::Origin;
use super::tree::{Node, Value};

/// Stores in `node` and below the source text of each boolean and number that PyYAML reads as a
/// string. Also marks each key of the map `node` whose value is an anchor.
pub(super) fn note(node: &mut Node, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    note_texts(node, &lines);
    if let Value::Map(entries) = &mut node.value {
        for (key, value) in entries {
            key.is_anchor =
                behind(&key.at, &lines).is_some_and(|rest| is_anchor(rest, &key.name)) || only_anchors(value, &lines);
        }
    }
}

fn note_texts(node: &mut Node, lines: &[&str]) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| note_texts(item, lines)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| note_texts(value, lines)),
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
            let ends = |letter: char| letter.is_whitespace() || matches!(letter, ',' | ']' | '}');
            let rest = behind(&node.at, lines).unwrap_or_default();
            let written = rest.split(ends).next().unwrap_or_default();
            node.written = is_text(written).then(|| written.into());
        }
        Value::Null | Value::Text(_) => {}
    }
}

/// Returns whether all values of a map are anchors.
fn only_anchors(node: &Node, lines: &[&str]) -> bool {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => entries.iter().all(|(key, value)| {
            behind(&key.at, lines).is_some_and(|rest| is_anchor(rest, &key.name)) || only_anchors(value, lines)
        }),
        _ => false,
    }
}

/// Returns whether the value of the key `name` begins with an anchor.
fn is_anchor(rest: &str, name: &str) -> bool {
    let value = rest
        .strip_prefix(name)
        .and_then(|rest| rest.trim_start().strip_prefix(':'));
    value.is_some_and(|value| value.trim_start().starts_with('&'))
}

/// Returns the rest of the line from a position.
fn behind<'t>(at: &Origin, lines: &[&'t str]) -> Option<&'t str> {
    let Origin::Text { line, column } = at else { return None };
    let line = lines.get(usize::try_from(*line).ok()?.checked_sub(1)?)?;
    let start = line
        .char_indices()
        .nth(usize::try_from(*column).ok()?.checked_sub(1)?)?
        .0;
    Some(&line[start..])
}

/// Returns whether PyYAML reads this boolean or number as a string.
fn is_text(written: &str) -> bool {
    let unsigned = written.strip_prefix(['+', '-']).unwrap_or(written);
    let Some(first) = unsigned.chars().next() else {
        return false;
    };
    if first.is_ascii_alphabetic() {
        return matches!(unsigned, "y" | "Y" | "n" | "N");
    }
    if !first.is_ascii_digit() && first != '.' {
        return false; // quoted, tagged, or the place of an alias
    }
    match unsigned.as_bytes() {
        [b'0', b'x' | b'b', ..] => false,
        [b'0', b'o' | b'O' | b'X' | b'B', ..] => true,
        [b'0', rest @ ..] if !rest.contains(&b'.') && rest.iter().any(|digit| matches!(digit, b'8' | b'9')) => true,
        _ => match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => !mantissa.contains('.') || !exponent.starts_with(['+', '-']),
            None => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::is_text;

    /// As `yaml.safe_load` of PyYAML 6.0 answers for each of them.
    #[test]
    fn what_the_package_reads_as_a_text() {
        for text in ["y", "N", "1e3", "1e+3", "1.0e3", "08", "-09", "0o10", "3e-3"] {
            assert!(is_text(text), "{text}");
        }
        for number in [
            "yes", "off", "true", "1.0e+3", "1.5", "010", "0x10", "0b11", "1_000", "-1", "0", "1.", "0.8", "00.9",
        ] {
            assert!(!is_text(number), "{number}");
        }
    }
}
