//! The vocabulary of an architecture: the facts about a model that a data set needs.

use std::fmt;

use super::model::Architecture;

/// The ids of a model. Two models with equal vocabularies can read each other's data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// The number of ids.
    pub num_tokens: usize,
    /// The id that fills up short samples.
    pub pad_token_id: u32,
    /// The id that replaces a masked byte, for encoders only.
    pub mask_token_id: Option<u32>,
}

impl Vocabulary {
    /// Returns the vocabulary of an architecture.
    pub fn of(architecture: &Architecture) -> Self {
        let model = architecture.model();
        Self {
            num_tokens: model.num_tokens,
            pad_token_id: model.pad_token_id,
            mask_token_id: match architecture {
                Architecture::Decoder(_) => None,
                Architecture::Encoder(encoder) => Some(encoder.mask_token_id),
            },
        }
    }
}

impl fmt::Display for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "num_tokens {}, pad_token_id {}", self.num_tokens, self.pad_token_id)?;
        match self.mask_token_id {
            Some(id) => write!(f, ", mask_token_id {id}"),
            None => Ok(()),
        }
    }
}
