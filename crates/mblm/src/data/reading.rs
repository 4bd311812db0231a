//! How files are read: as they are, or as what is in them.

use crate::{Error, Result};

/// How files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Compressed files stand for what they decompress to; else for their own bytes.
    pub decompress: bool,
    /// Files are JSON Lines and stand for the strings in this field of their lines; without it for their own bytes.
    pub text_field: Option<String>,
    /// What is done with lines that have no such string.
    pub bad_lines: BadLines,
}

impl Reading {
    /// By the options `text_field`, `skip_bad_lines` and `raw` of data sets that hold text.
    ///
    /// # Errors
    /// Options that contradict each other.
    pub fn from_options(text_field: Option<String>, skip_bad_lines: bool, raw: bool) -> Result<Self> {
        if skip_bad_lines && text_field.is_none() || raw && text_field.is_some() {
            return Err(Error::config(
                "dataset_args: text_field reads JSON Lines, skip_bad_lines leaves lines of them out, and raw reads files as they are: \
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

/// What is done with lines that are no JSON object with the text field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// The first one is an error.
    #[default]
    Refuse,
    /// They are left out, and counted in a warning.
    Skip,
}
