//! The text that needles are hidden in: files, a split of files, or bytes in memory.
//!
//! ```
//! use mblm_app::needle::Haystack;
//!
//! assert_eq!(Haystack::from_bytes(b"any text".to_vec()).len(), 8);
//! ```

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mblm::data::{ByteSource, DatasetArgs, Files, OnOpening, Opener, Split, regular_files};
use mblm::{Error, Result};

use super::options::NeedleOptions;

/// Natural text to hide needles in.
pub struct Haystack {
    source: Arc<dyn ByteSource>,
    bytes: Range<u64>,
    name: String,
}

impl Haystack {
    /// Opens all files of a path as one text: a file, or a folder with everything below it.
    ///
    /// # Errors
    /// A file cannot be read or decoded, or is empty; an option is invalid.
    pub fn open(path: &Path, options: &NeedleOptions, on_opening: Option<OnOpening>) -> Result<Self> {
        let files = Files::open(&regular_files(path)?, &options.reading()?, on_opening)?;
        Ok(Self {
            bytes: 0..files.len(),
            name: path.display().to_string(),
            source: Arc::new(files),
        })
    }

    /// Uses text in memory.
    pub fn from_bytes(text: Vec<u8>) -> Self {
        Self {
            bytes: 0..text.len() as u64,
            name: "memory".into(),
            source: Arc::new(text),
        }
    }

    /// Opens the text of a split as the data set does with these options; `None` if there is no
    /// such split.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_split(
        dir: &Path,
        split: Split,
        options: &NeedleOptions,
        on_opening: Option<OnOpening>,
    ) -> Result<Option<Self>> {
        let args = DatasetArgs {
            on_opening,
            ..DatasetArgs::new(dir, split, 1)
        };
        Self::split(&args, options, &Opener::default())
    }

    pub(super) fn split(args: &DatasetArgs, options: &NeedleOptions, opener: &Opener) -> Result<Option<Self>> {
        let part = opener.part(args, options.held_out, options.reading()?)?;
        Ok(part.map(|part| Self {
            source: part.files,
            bytes: part.bytes,
            name: format!("{} split of {}", args.split, args.dir.display()),
        }))
    }

    /// The name of the text, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The length of the text in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The last offset at which a window of `len` bytes can begin.
    pub(super) fn last_offset(&self, len: usize) -> Result<u64> {
        self.len().checked_sub(len as u64).ok_or_else(|| {
            Error::input(format!(
                "{}: has {} bytes of text, but a sample takes {len}; give more text, or make samples shorter",
                self.name,
                self.len()
            ))
        })
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.source.read(self.bytes.start + offset, buffer)
    }
}
