//! Reads one line of JSON Lines: the string in one field of an object.
//!
//! The rest of the line is parsed but not kept: a tree of its values would take twenty times the
//! memory of the line.
//!
//! Python's `json` extensions are accepted: NaN, Infinity and -Infinity as values, and lone
//! surrogates (`"\ud800"`), which become U+FFFD because UTF-8 cannot encode them.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The largest number of keys in a message.
const KEYS_NAMED: usize = 20;

/// Returns the string in the field `field` of one line. If the field occurs twice, the last one
/// counts.
///
/// # Errors
/// The problem in words: not an object, no such field, or a field of another type.
pub fn text_of(line: &[u8], field: &str) -> Result<String, String> {
    strict_text_of(line, field).or_else(|error| match as_standard(line) {
        Some(standard) => strict_text_of(&standard, field),
        None => Err(error),
    })
}

/// Replaces Python's extensions of JSON by the nearest standard form: null for NaN, Infinity and
/// -Infinity, U+FFFD for lone surrogates. Returns `None` if there are none.
pub fn as_standard(line: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(line.len());
    let (mut rest, mut changed) = (line, false);
    while let Some(&first) = rest.first() {
        if first == b'"' {
            let end = string_end(rest);
            changed |= replace_surrogates(&rest[..end], &mut out);
            rest = &rest[end..];
            continue;
        }
        let word = [&b"-Infinity"[..], b"Infinity", b"NaN"]
            .into_iter()
            .find(|word| rest.starts_with(word));
        match word {
            Some(word) => {
                out.extend_from_slice(b"null");
                rest = &rest[word.len()..];
                changed = true;
            }
            None => {
                out.push(first);
                rest = &rest[1..];
            }
        }
    }
    changed.then_some(out)
}

/// Returns the end of the string that `text` begins with, after its closing quotation mark.
fn string_end(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Appends a string with U+FFFD for each lone surrogate; returns whether it had one.
fn replace_surrogates(string: &[u8], out: &mut Vec<u8>) -> bool {
    let (mut at, mut found) = (0, false);
    while at < string.len() {
        if string[at] != b'\\' {
            out.push(string[at]);
            at += 1;
            continue;
        }
        let unit = surrogate(&string[at..]);
        let pair = unit.is_some_and(|unit| unit < 0xdc00)
            && string
                .get(at + 6..)
                .and_then(surrogate)
                .is_some_and(|unit| unit >= 0xdc00);
        let length = match (unit, pair) {
            (Some(_), true) => 12,
            (Some(_), false) => 6,
            (None, _) => 2,
        };
        let end = (at + length).min(string.len());
        match unit.is_some() && !pair {
            true => out.extend_from_slice(b"\\ufffd"),
            false => out.extend_from_slice(&string[at..end]),
        }
        found |= unit.is_some() && !pair;
        at = end;
    }
    found
}

/// Returns the surrogate of an escape `\uXXXX` at the beginning.
fn surrogate(text: &[u8]) -> Option<u16> {
    let digits = text.get(..6)?.strip_prefix(b"\\u")?;
    let unit = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xd800..0xe000).contains(&unit).then_some(unit)
}

fn strict_text_of(line: &[u8], field: &str) -> Result<String, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let object = Object { field }.deserialize(&mut json);
    match object.and_then(|found| json.end().map(|()| found)) {
        Ok(Found::String(text)) => Ok(text),
        Ok(Found::Other) => Err(format!(
            "the field `{field}` is not a string; set text_field to the field with the text"
        )),
        Ok(Found::Nothing(keys)) => Err(format!(
            "no field `{field}`, found {}; set text_field to the field with the text",
            if keys.is_empty() {
                "none".into()
            } else {
                keys.join(", ")
            }
        )),
        Err(error) if error.is_eof() => Err(format!(
            "expected a JSON object: {}; if objects span several lines, `jq -c . FILE > NEW.jsonl` writes one object \
             per line",
            without_place(&error)
        )),
        Err(error) if error.column() == 0 => Err(format!("expected a JSON object: {}", without_place(&error))),
        Err(error) => Err(format!(
            "expected a JSON object: {} at byte {}",
            without_place(&error),
            error.column()
        )),
    }
}

/// Returns the error's text without the line number, which is always 1 here.
fn without_place(error: &serde_json::Error) -> String {
    let said = error.to_string();
    match said.rsplit_once(" at line ") {
        Some((what, _)) => what.to_string(),
        None => said,
    }
}

/// The result of the search for the field.
enum Found {
    String(String),
    /// A value of another type.
    Other,
    /// The object has only these fields.
    Nothing(Vec<String>),
}

/// A visitor that reads one field of an object.
struct Object<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let (mut found, mut keys) = (None, Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            if key == self.field {
                found = Some(map.next_value::<Text>()?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if keys.len() < KEYS_NAMED {
                keys.push(format!("`{key}`"));
            }
        }
        Ok(match found {
            Some(Text(Some(text))) => Found::String(text),
            Some(Text(None)) => Found::Other,
            None => Found::Nothing(keys),
        })
    }
}

/// A string; `None` for any other value, which is not kept.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_gives_its_text_or_a_reason() {
        let of = |line: &str| text_of(line.as_bytes(), "text");
        assert_eq!(of(r#"{"id": 1, "text": "Dvořák\n"}"#).unwrap(), "Dvořák\n");
        assert!(
            of(r#"{"id": 1, "body": ""}"#)
                .unwrap_err()
                .contains("found `id`, `body`")
        );
        assert!(of("{}").unwrap_err().contains("found none"));
        assert!(of(r#"{"text": 3}"#).unwrap_err().contains("is not a string"));
        assert!(of("[1]").unwrap_err().contains("expected a JSON object"));
        assert!(of("{").unwrap_err().contains("expected a JSON object: EOF"));
    }

    #[test]
    fn what_python_writes_beyond_the_standard_is_read() {
        let of = |line: &str| text_of(line.as_bytes(), "text");
        assert_eq!(
            of(r#"{"a": NaN, "b": [Infinity, -Infinity], "text": "NaN \"NaN\""}"#).unwrap(),
            "NaN \"NaN\""
        );
        assert_eq!(
            of(r#"{"text": "a\ud800b\udc00\u0041"}"#).unwrap(),
            "a\u{fffd}b\u{fffd}A"
        );
        assert_eq!(of(r#"{"text": "\ud83d\ude00\\ud800"}"#).unwrap(), "\u{1f600}\\ud800");
        assert_eq!(of(r#"{"k\ud800": 1, "text": "x", "score": NaN}"#).unwrap(), "x");
        assert!(of(r#"{"text": NaN}"#).unwrap_err().contains("is not a string"));
        for broken in [
            r#"{"text": nan}"#,
            r#"{"text": "a\ud80"}"#,
            r#"{"text": "a\"#,
            r#"{"a": NaN, "text": "b""#,
            r#"{"text": Infinity"#,
        ] {
            assert!(of(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn other_values_of_any_kind_are_read_over() {
        let of = |line: &str| text_of(line.as_bytes(), "text");
        let line = r#"{"a": [[{"text": "inner"}]], "b": {"text": 1}, "text": "outer", "c": null, "d": 1e999}"#;
        assert_eq!(of(line).unwrap(), "outer");
        assert_eq!(of(r#"{"text": "first", "text": "last"}"#).unwrap(), "last");
        for value in ["null", "true", "1", "-1", "0.5", "[[]]", r#"{"text": "inner"}"#] {
            let message = of(&format!(r#"{{"text": {value}}}"#)).unwrap_err();
            assert!(message.contains("is not a string"), "{value}: {message}");
        }
        assert!(of(r#"{"text": "a"} 1"#).unwrap_err().contains("trailing characters"));
        // Nested deeper than any stack: skipped without recursion, but an error in the field.
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(of(&format!(r#"{{"a": {deep}, "text": ""}}"#)).unwrap(), "");
        let _ = of(&format!(r#"{{"text": {deep}}}"#));
    }
}
