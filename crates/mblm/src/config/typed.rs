//! Typed values from a tree: a serde deserializer over [`Node`], whose problems name the position
//! of the value.
//!
//! Numbers and booleans are accepted in other spellings ([`lenient`]), texts as written
//! ([`Node::written`]).

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};

use super::lenient;
use super::tree::{Key, Node, Problem, Value};

impl Node {
    /// Reads a typed value. `also_known` are keys of this map that were removed before; a
    /// misspelling may mean one of them.
    pub(crate) fn read<T: DeserializeOwned>(&self, also_known: &[&str]) -> Result<T, Problem> {
        T::deserialize(Reader { node: self, also_known })
    }

    /// Reads the value of `key` of this map.
    pub(crate) fn read_key<T: DeserializeOwned>(&self, key: &str) -> Result<T, Problem> {
        self.require(key)?.read(&[]).map_err(|problem| problem.within(key))
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

/// Reads integers of every width from any value that `lenient` accepts as an integer.
macro_rules! integers {
    ($($name:ident)*) => { $(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            let value = match &self.node.value {
                Value::Float(number) => lenient::whole(*number),
                Value::Text(text) => lenient::integer(text),
                _ => None,
            };
            let Some(value) = value else { return self.deserialize_any(visitor) };
            let node = Node { at: self.node.at.clone(), value: Value::Integer(value), written: None };
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

    /// Accepts only a map for a struct: serde would also accept a list of the values in order,
    /// which a reader cannot understand.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Map(entries) => {
                let is_for_others =
                    |key: &Key| key.is_anchor && !known.iter().chain(self.also_known).any(|known| *known == key.name);
                let mut rest = self.node.clone();
                if entries.iter().any(|(key, _)| is_for_others(key))
                    && let Value::Map(entries) = &mut rest.value
                {
                    entries.retain(|(key, _)| !is_for_others(key));
                }
                let also_known = self.also_known;
                Reader {
                    node: &rest,
                    also_known,
                }
                .deserialize_any(visitor)
            }
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
        match (&self.node.value, &self.node.written) {
            (Value::Text(name), _) => visitor.visit_enum(name.as_str().into_deserializer()),
            (_, Some(name)) => visitor.visit_enum(name.as_ref().into_deserializer()),
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

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.written {
            Some(written) => visitor
                .visit_str(written)
                .map_err(|problem: Problem| problem.or_at(&self.node.at)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct seq tuple
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
