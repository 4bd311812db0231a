//! A configuration as a tree of values that know where they were written.
//!
//! YAML text, JSON and `--set` overrides all become a [`Node`]; typed configurations are read from it with
//! [`Node::read`]. What goes wrong is a [`Problem`]: the key's path as it would be written in an override
//! (`params.seq_lens.0`), the place it was written, and a message.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde_saphyr::Spanned;

use super::lenient;
pub(crate) use super::problem::{Origin, Problem};
use crate::Error;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Origin,
    pub(crate) value: Value,
}

/// What a node holds.
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

/// The name of a map's entry and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) at: Origin,
    pub(crate) name: String,
}

impl Node {
    /// Reads a typed value. `also_known` are keys of this map that were taken out before; misspellings may mean them.
    pub(crate) fn read<T: DeserializeOwned>(&self, also_known: &[&str]) -> Result<T, Problem> {
        T::deserialize(Reader { node: self, also_known })
    }

    /// Reads the value of `key` of this map.
    pub(crate) fn read_key<T: DeserializeOwned>(&self, key: &str) -> Result<T, Problem> {
        self.require(key)?.read(&[]).map_err(|problem| problem.within(key))
    }

    /// The value of `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value of `key`, or a problem that says it is missing.
    pub(crate) fn require(&self, key: &str) -> Result<&Node, Problem> {
        self.get(key).ok_or_else(|| Problem::missing(key).or_at(&self.at))
    }

    /// This map without some of its keys.
    pub(crate) fn without(&self, keys: &[&str]) -> Node {
        let mut rest = self.clone();
        if let Value::Map(entries) = &mut rest.value {
            entries.retain(|(key, _)| !keys.contains(&key.name.as_str()));
        }
        rest
    }

    /// The names of this map's keys, in the order written; nothing for other values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = match &self.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, _)| key.name.as_str())
    }

    /// Where `path` was written, or the nearest map or list above it that was.
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

    /// A problem that a check of the values found, with the place where the value was written.
    pub(crate) fn error(&self, problem: Problem, source: &str) -> Error {
        let origin = self.locate(problem.path());
        problem.or_at(origin).into_error(source)
    }

    /// Marks this value and all below it as written in `origin`.
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

    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => Unexpected::Unsigned(value),
                (_, Ok(value)) => Unexpected::Signed(value),
                _ => Unexpected::Other("an integer beyond 64 bits"),
            },
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(value) => Unexpected::Str(value),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
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
        }
    }
}

/// From YAML, with the places where values and keys stand; other formats go through [`serde_json::Value`].
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            at: Origin::of(spanned.referenced),
            value: spanned.value,
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
            };
            entries.push((key, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}

/// Reads typed values from a node through serde.
struct Reader<'a> {
    node: &'a Node,
    also_known: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_u64(value),
                (_, Ok(value)) => visitor.visit_i64(value),
                _ => Err(de::Error::invalid_type(self.node.unexpected(), &visitor)),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(items) => visitor.visit_seq(ListReader {
                items: items.iter().enumerate(),
            }),
            Value::Map(entries) => visitor.visit_map(MapReader {
                entries: entries.iter(),
                current: None,
                also_known: self.also_known,
            }),
        }
    }
}

/// Integers of every width, from whatever `lenient` takes for one.
macro_rules! integers {
    ($($name:ident)*) => { $(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            let value = match &self.node.value {
                Value::Float(number) => lenient::whole(*number),
                Value::Text(text) => lenient::integer(text),
                _ => None,
            };
            let Some(value) = value else { return self.deserialize_any(visitor) };
            let node = Node { at: self.node.at.clone(), value: Value::Integer(value) };
            Reader { node: &node, also_known: &[] }.deserialize_any(visitor)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.visit(visitor).map_err(|problem| problem.or_at(&self.node.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    /// A struct is a map: serde would take a list of its values in order as well, which says nothing to a reader.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => {
                let problem: Problem = de::Error::invalid_type(self.node.unexpected(), &"a map of keys");
                Err(problem.or_at(&self.node.at))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Text(name) => visitor.visit_enum(name.as_str().into_deserializer()),
            _ => Err(de::Error::invalid_type(self.node.unexpected(), &"a name")),
        }
        .map_err(|problem: Problem| problem.or_at(&self.node.at))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let value = match &self.node.value {
            Value::Integer(0) => Some(false),
            Value::Integer(1) => Some(true),
            Value::Text(text) => lenient::boolean(text),
            _ => None,
        };
        match value {
            Some(value) => visitor
                .visit_bool(value)
                .map_err(|problem: Problem| problem.or_at(&self.node.at)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let value = match &self.node.value {
            Value::Text(text) => lenient::float(text),
            _ => None,
        };
        match value {
            Some(value) => visitor
                .visit_f64(value)
                .map_err(|problem: Problem| problem.or_at(&self.node.at)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct ListReader<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> de::SeqAccess<'de> for ListReader<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        self.items
            .next()
            .map(|(index, node)| {
                seed.deserialize(Reader { node, also_known: &[] })
                    .map_err(|problem| problem.or_at(&node.at).within(index))
            })
            .transpose()
    }
}

struct MapReader<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    current: Option<&'a (Key, Node)>,
    also_known: &'a [&'a str],
}

impl<'de> de::MapAccess<'de> for MapReader<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        self.current = self.entries.next();
        self.current
            .map(|(key, _)| {
                seed.deserialize(key.name.as_str().into_deserializer())
                    .map_err(|problem: Problem| problem.also_known(self.also_known).or_at(&key.at))
            })
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, node)) = self.current.take() else {
            return Err(de::Error::custom("a map's value was asked for before its key"));
        };
        seed.deserialize(Reader { node, also_known: &[] })
            .map_err(|problem| problem.or_at(&node.at).within(&key.name))
    }
}
