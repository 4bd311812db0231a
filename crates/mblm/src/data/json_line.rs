//! One line of JSON Lines: the string in one field of an object.
//!
//! All else in the line is read over, not kept: a tree of its values would take twenty times the memory of the line.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How many keys a message names.
const KEYS_NAMED: usize = 20;

/// The string in the field `field` of one line, or what is wrong with the line. Of a field given twice the last counts.
pub(super) fn text_of(line: &[u8], field: &str) -> Result<String, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let object = Object { field }.deserialize(&mut json);
    match object.and_then(|found| json.end().map(|()| found)) {
        Ok(Found::String(text)) => Ok(text),
        Ok(Found::Other) => Err(format!(
            "the field `{field}` is no string; set text_field to one that is"
        )),
        Ok(Found::Nothing(keys)) => Err(format!(
            "no field `{field}`, found {}; set text_field to the one with the text",
            if keys.is_empty() {
                "none".into()
            } else {
                keys.join(", ")
            }
        )),
        Err(error) => Err(format!("expected a JSON object: {error}")),
    }
}

/// What an object has in the field.
enum Found {
    String(String),
    /// Another value.
    Other,
    /// It has no such field, but these.
    Nothing(Vec<String>),
}

/// Reads an object for one of its fields.
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

/// A string, or any other value, which is not kept.
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
        assert!(of(r#"{"text": 3}"#).unwrap_err().contains("is no string"));
        assert!(of("[1]").unwrap_err().contains("expected a JSON object"));
        assert!(of("{").unwrap_err().contains("expected a JSON object: EOF"));
    }

    #[test]
    fn other_values_of_any_kind_are_read_over() {
        let of = |line: &str| text_of(line.as_bytes(), "text");
        let line = r#"{"a": [[{"text": "inner"}]], "b": {"text": 1}, "text": "outer", "c": null, "d": 1e999}"#;
        assert_eq!(of(line).unwrap(), "outer");
        assert_eq!(of(r#"{"text": "first", "text": "last"}"#).unwrap(), "last");
        for value in ["null", "true", "1", "-1", "0.5", "[[]]", r#"{"text": "inner"}"#] {
            let message = of(&format!(r#"{{"text": {value}}}"#)).unwrap_err();
            assert!(message.contains("is no string"), "{value}: {message}");
        }
        assert!(of(r#"{"text": "a"} 1"#).unwrap_err().contains("trailing characters"));
        // Nested deeper than any stack: read over without recursion where it is not wanted, an error where it is.
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(of(&format!(r#"{{"a": {deep}, "text": ""}}"#)).unwrap(), "");
        let _ = of(&format!(r#"{{"text": {deep}}}"#));
    }
}
