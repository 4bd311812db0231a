//! The kinds of files, recognized by their first bytes, and advice about kinds that are rarely
//! meant to be read byte by byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mblm::data::regular_files;
use mblm_formats::compressed::{HEAD, Packed};
use serde_json::Map;

/// The number of bytes of a file that are examined.
const LOOKED_AT: u64 = 64 << 10;

/// The number and size of the files of one kind.
#[derive(Default)]
pub(crate) struct Kind {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The kinds of some files, by name.
pub(crate) struct FileKinds(pub(crate) BTreeMap<String, Kind>);

impl FileKinds {
    /// Examines every file.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn of(files: &[PathBuf]) -> mblm::Result<Self> {
        let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
        for file in files {
            let kind = kinds.entry(kind_of(file)?).or_default();
            kind.files += 1;
            kind.bytes += file.metadata().map_err(|error| mblm::Error::file(file, error))?.len();
        }
        Ok(Self(kinds))
    }

    /// Returns one line for each kind that is rarely meant to be read as it is.
    pub(crate) fn advice(&self) -> Vec<String> {
        let advice = |name: &String| {
            Some(match name.as_str() {
                "PNG images" | "JPEG images" => format!(
                    "{name}: data set `pictures` trains on pixels or JPEG bytes; `bytes` reads the files as they are"
                ),
                "JSON Lines" => "JSON Lines: io.dataset_args.text_field=text trains on one field; without it the lines are read as they are".into(),
                "text in UTF-16" => "text in UTF-16: every other byte of Latin text is 0; `iconv -f UTF-16 -t UTF-8 FILE > NEW` converts it".into(),
                "gzip data" | "zstd data" => format!("{name}: read decompressed"),
                "text" | "other bytes" | "empty" => return None,
                _ => format!("{name}: not read; unpack it first, or take its bytes as they are with io.dataset_args.raw=true"),
            })
        };
        self.0.keys().filter_map(advice).collect()
    }
}

/// Returns the total size of a file, or of all files of a folder, in bytes.
///
/// # Errors
/// A file or folder that cannot be read.
pub(crate) fn total_size(data: &Path) -> mblm::Result<u64> {
    let sizes = regular_files(data)?
        .into_iter()
        .map(|file| Ok(file.metadata().map_err(|error| mblm::Error::file(&file, error))?.len()));
    sizes.sum()
}

/// Recognizes the kind of a file by its first bytes.
fn kind_of(path: &Path) -> mblm::Result<String> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LOOKED_AT).read_to_end(&mut head))
        .map_err(|error| mblm::Error::file(path, error))?;
    if let Some(packed) = Packed::of(&head[..head.len().min(HEAD)]) {
        return Ok(packed.what);
    }
    Ok(match &head[..] {
        [] => "empty",
        [0x89, b'P', b'N', b'G', ..] => "PNG images",
        [0xff, 0xd8, 0xff, ..] => "JPEG images",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "text in UTF-16",
        head if is_json_lines(head) => "JSON Lines",
        head if is_text(head) => "text",
        _ => "other bytes",
    }
    .into())
}

/// Whether these bytes are UTF-8 without NUL. The last character may be incomplete.
fn is_text(head: &[u8]) -> bool {
    let cut = match std::str::from_utf8(head) {
        Ok(_) => head.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return false,
    };
    !head[..cut].contains(&0)
}

/// Whether the first line is a JSON object.
fn is_json_lines(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.len() < head.len() && line.starts_with(b"{") && serde_json::from_slice::<Map<_, _>>(line).is_ok()
}
