//! How files are read: undecoded, or as their decoded content.

use crate::{Error, Result};

/// How files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether compressed files are read as their decompressed content.
    pub decompress: bool,
    /// The text field of JSON Lines, whose strings are read; `None` reads the files' own bytes.
    pub text_field: Option<String>,
    /// How lines without such a string are treated.
    pub bad_lines: BadLines,
}

impl Reading {
    /// Builds the value from the options `text_field`, `skip_bad_lines` and `raw` of text data
    /// sets.
    ///
    /// # Errors
    /// Options that contradict each other.
    pub fn from_options(text_field: Option<String>, skip_bad_lines: bool, raw: bool) -> Result<Self> {
        if skip_bad_lines && text_field.is_none() || raw && text_field.is_some() {
            return Err(Error::config(
                "dataset_args: text_field (JSON Lines), skip_bad_lines and raw (bytes unchanged) do not fit together: \
                 expected text_field, text_field with skip_bad_lines, or raw",
            ));
        }
        Ok(Self {
            decompress: !raw,
            text_field,
            bad_lines: match skip_bad_lines {
                true => BadLines::Skip,
                false => BadLines::Refuse,
            },
        })
    }
}

/// How lines that are not JSON objects with the text field are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// The first one is an error.
    #[default]
    Refuse,
    /// They are skipped, and counted in a warning.
    Skip,
}
