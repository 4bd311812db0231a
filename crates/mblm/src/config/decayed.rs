//! The parameters that weight decay applies to: the key `train.decay`, a word or a list of names.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::tree::Problem;

/// The parameters that decay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DecayedParameters {
    /// All parameters (`all`).
    #[default]
    All,
    /// Parameters with two dimensions or more (`matrices`): no biases, norms or other vectors.
    Matrices,
    /// Parameters whose names match one of these patterns, in which `*` stands for any text:
    /// `["*.weight"]`.
    Matching(Vec<String>),
}

const ALL: &str = "all";
const MATRICES: &str = "matrices";

impl DecayedParameters {
    pub(super) fn is_all(&self) -> bool {
        *self == Self::All
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Matching(patterns) if patterns.is_empty() => {
                let message =
                    "expected patterns of parameter names, found an empty list; set weight_decay: 0 for no decay";
                Err(Problem::new("", message))
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for DecayedParameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str(ALL),
            Self::Matrices => serializer.serialize_str(MATRICES),
            Self::Matching(patterns) => patterns.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for DecayedParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Choice)
    }
}

struct Choice;

impl<'de> Visitor<'de> for Choice {
    type Value = DecayedParameters;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("all, matrices, or a list of parameter names")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
        match word {
            ALL => Ok(DecayedParameters::All),
            MATRICES => Ok(DecayedParameters::Matrices),
            _ => Err(E::unknown_variant(word, &[ALL, MATRICES])),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut patterns = Vec::new();
        while let Some(pattern) = list.next_element()? {
            patterns.push(pattern);
        }
        Ok(DecayedParameters::Matching(patterns))
    }
}
