//! A configuration as a tree of values with their positions in the text.
//!
//! YAML text, JSON and `--set` overrides all become a [`Node`]; [`Node::read`] reads typed
//! configurations from it. An error is a [`Problem`]: the key's path as written in an override
//! (`params.seq_lens.0`), the position where it was written, and a message.

use std::fmt;

use serde::de::{self, Deserialize, Visitor};
use serde_saphyr::Spanned;

pub(crate) use super::problem::{Origin, Problem};
use crate::Error;

/// A value and its position.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Origin,
    pub(crate) value: Value,
    /// The source text of a boolean or number that the package reads as a text.
    pub(crate) written: Option<Box<str>>,
}

/// The value of a node.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The name of a map's entry and its position.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) at: Origin,
    pub(crate) name: String,
    /// Whether its value is an anchor to be repeated elsewhere: `common: &common …`.
    pub(crate) is_anchor: bool,
}

impl Node {
    /// Returns the value of `key` if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns the value of `key`, or the problem that it is missing.
    pub(crate) fn require(&self, key: &str) -> Result<&Node, Problem> {
        self.get(key).ok_or_else(|| Problem::missing(key).or_at(&self.at))
    }

    /// Returns this map without some of its keys.
    pub(crate) fn without(&self, keys: &[&str]) -> Node {
        let mut rest = self.clone();
        if let Value::Map(entries) = &mut rest.value {
            entries.retain(|(key, _)| !keys.contains(&key.name.as_str()));
        }
        rest
    }

    /// Returns the names of this map's keys, in the order written; nothing for other values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = match &self.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, _)| key.name.as_str())
    }

    /// Returns the position of `path`, or of the nearest map or list above it that has a position.
    pub(crate) fn locate(&self, path: &str) -> &Origin {
        let mut node = self;
        for step in path.split('.') {
            let next = match &node.value {
                Value::Map(_) => node.get(step),
                Value::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        &node.at
    }

    /// Returns the error for a problem that a check of the values found, with the position of the
    /// value.
    pub(crate) fn error(&self, problem: Problem, source: &str) -> Error {
        let origin = self.locate(problem.path());
        problem.or_at(origin).into_error(source)
    }

    /// Sets the position of this value and all values below it to `origin`.
    pub(crate) fn relocate(&mut self, origin: &Origin) {
        self.at = origin.clone();
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.relocate(origin)),
            Value::Map(entries) => entries.iter_mut().for_each(|(key, node)| {
                key.at = origin.clone();
                node.relocate(origin);
            }),
            _ => {}
        }
    }
}

impl From<serde_json::Value> for Node {
    fn from(json: serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(value) => Value::Integer(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Node::from).collect()),
            serde_json::Value::Object(map) => Value::Map(
                map.into_iter()
                    .map(|(name, value)| {
                        (
                            Key {
                                at: Origin::Unknown,
                                name,
                                is_anchor: false,
                            },
                            value.into(),
                        )
                    })
                    .collect(),
            ),
        };
        Self {
            at: Origin::Unknown,
            value,
            written: None,
        }
    }
}

/// Reads YAML with the positions of values and keys; other formats go through
/// [`serde_json::Value`].
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            at: Origin::of(spanned.referenced),
            value: spanned.value,
            written: None,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = Key {
                at: Origin::of(key.referenced),
                name: key.value,
                is_anchor: false,
            };
            entries.push((key, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}
