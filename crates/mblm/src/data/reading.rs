//! How files are read: as they are, or as what is in them.

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

/// What is done with lines that are no JSON object with the text field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadLines {
    /// The first one is an error.
    #[default]
    Refuse,
    /// They are left out, and counted in a warning.
    Skip,
}
