//! Problems of a configuration: the key, the position where it was written, and a message in the
//! words of the configuration's reader.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Unexpected};

use super::suggest;
use crate::Error;

/// Where a key or value was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Origin {
    /// No known position: JSON, or values made by a program.
    #[default]
    Unknown,
    /// A line and a column of the text, both counted from 1.
    Text { line: u64, column: u64 },
    /// An override, as it was given.
    Override(Arc<str>),
}

impl Origin {
    pub(crate) fn of(location: serde_saphyr::Location) -> Self {
        match (location.line(), location.column()) {
            (0, _) => Self::Unknown,
            (line, column) => Self::Text { line, column },
        }
    }
}

/// A problem with a value of a configuration: its key, as written in an override, and a message.
#[derive(Debug)]
pub struct Problem {
    at: Origin,
    path: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Message(String),
    UnknownKey { key: String, known: Vec<String> },
    MissingKey(String),
}

impl Problem {
    /// Makes a problem with the value at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..Self::of_kind(Kind::Message(message.into()))
        }
    }

    /// Makes the problem of a missing key that has no default.
    pub(super) fn missing(key: &str) -> Self {
        Self::of_kind(Kind::MissingKey(key.to_string()))
    }

    fn of_kind(kind: Kind) -> Self {
        Self {
            at: Origin::Unknown,
            path: String::new(),
            kind,
        }
    }

    /// Returns the problem with `key` in front of its path: seen from the map or list that has the
    /// entry `key`.
    pub fn within(mut self, key: impl fmt::Display) -> Self {
        self.path = match self.path.is_empty() {
            true => key.to_string(),
            false => format!("{key}.{}", self.path),
        };
        self
    }

    /// Returns the problem with the position `origin` if it has no position yet.
    pub(crate) fn or_at(mut self, origin: &Origin) -> Self {
        if self.at == Origin::Unknown {
            self.at = origin.clone();
        }
        self
    }

    /// Returns the path of the key, as in an override.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the error that a caller sees: `source:line:column: message`.
    pub(crate) fn into_error(self, source: &str) -> Error {
        Error::config(match &self.at {
            Origin::Unknown => format!("{source}: {self}"),
            Origin::Text { line, column } => format!("{source}:{line}:{column}: {self}"),
            Origin::Override(argument) => format!("--set {argument}: {self}"),
        })
    }

    /// Returns the problem with more known keys, which were removed before: a misspelling may mean
    /// one of them.
    pub(super) fn also_known(mut self, more: &[&str]) -> Self {
        if let Kind::UnknownKey { known, .. } = &mut self.kind {
            known.extend(more.iter().map(|key| key.to_string()));
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let within = match self.path.is_empty() {
            true => String::new(),
            false => format!(" in {}", self.path),
        };
        match &self.kind {
            Kind::Message(message) if self.path.is_empty() => f.write_str(message),
            Kind::Message(message) => write!(f, "{}: {message}", self.path),
            Kind::MissingKey(key) => write!(f, "missing key {key:?}{within}; it has no default"),
            Kind::UnknownKey { key, known } => {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                write!(f, "unknown key {key:?}{within}{}", suggest::hint(key, &known))
            }
        }
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("", message.to_string())
    }

    fn invalid_type(found: Unexpected, expected: &dyn de::Expected) -> Self {
        Self::custom(format!(
            "expected {}, found {}",
            plain_expected(expected),
            plain_found(found)
        ))
    }

    fn invalid_value(found: Unexpected, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!(
            "expected one of {}, found {variant:?}{}",
            expected.join(", "),
            suggest::nearest(variant, expected.iter().copied())
                .map_or(String::new(), |name| format!("; did you mean \"{name}\"?"))
        ))
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let known = known.iter().map(|key| key.to_string()).collect();
        Self::of_kind(Kind::UnknownKey {
            key: key.to_string(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::of_kind(Kind::MissingKey(key.to_string()))
    }
}

/// Returns serde's name of an expectation in the words of a configuration's reader.
fn plain_expected(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "usize" | "u64" | "u32" => "an integer of at least 0".to_string(),
        "f64" => "a number".to_string(),
        "a sequence" => "a list".to_string(),
        "a boolean" => "true or false".to_string(),
        "path string" => "a path".to_string(),
        name => name.to_string(),
    }
}

fn plain_found(found: Unexpected) -> String {
    match found {
        Unexpected::Unit => "nothing (null)".to_string(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => format!("the decimal number {value:?}"),
        Unexpected::Str(value) => format!("the text {value:?}"),
        Unexpected::Seq => "a list".to_string(),
        Unexpected::Map => "a map".to_string(),
        other => other.to_string(),
    }
}
