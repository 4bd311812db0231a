//! Recognizes compressed files and archives by their first bytes. gzip and zstd are read; others
//! are refused with the command that unpacks them.

#[cfg(feature = "compression")]
mod frames;
#[cfg(feature = "compression")]
mod measure;

use std::fmt;
use std::path::Path;

#[cfg(feature = "compression")]
pub use frames::Frames;

/// The number of first bytes that identify a file.
pub const HEAD: usize = 512;

/// A supported compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// An unsupported archive format.
struct Archive {
    /// Its first bytes.
    magic: &'static [u8],
    /// The offset of these bytes.
    at: usize,
    what: &'static str,
    /// The command that unpacks it.
    command: &'static str,
}

const fn archive(magic: &'static [u8], at: usize, what: &'static str, command: &'static str) -> Archive {
    Archive {
        magic,
        at,
        what,
        command,
    }
}

const ARCHIVES: [Archive; 11] = [
    archive(b"PK\x03\x04", 0, "a zip archive", "unzip FILE"),
    archive(b"PK\x05\x06", 0, "an empty zip archive", "unzip FILE"),
    archive(b"BZh", 0, "compressed with bzip2", "bunzip2 FILE"),
    archive(b"\xfd7zXZ\x00", 0, "compressed with xz", "unxz FILE"),
    archive(b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "7z x FILE"),
    archive(b"Rar!\x1a\x07", 0, "a rar archive", "unrar x FILE"),
    archive(b"\x04\x22\x4d\x18", 0, "compressed with lz4", "unlz4 FILE"),
    archive(b"\x89LZO\0\r\n\x1a\n", 0, "compressed with lzop", "lzop -d FILE"),
    archive(b"LZIP\x01", 0, "compressed with lzip", "lzip -d FILE"),
    archive(b"\x1f\x9d", 0, "compressed with compress", "uncompress FILE"),
    archive(b"ustar", 257, "a tar archive", "tar xf FILE"),
];

impl Archive {
    /// Returns the archive format of data that begin with `head`.
    fn of(head: &[u8]) -> Option<&'static Self> {
        ARCHIVES.iter().find(|archive| {
            let found = head
                .get(archive.at..)
                .is_some_and(|head| head.starts_with(archive.magic));
            found && (archive.magic != b"BZh" || is_bzip2(head))
        })
    }
}

/// The format of packed data and the command that unpacks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The format, such as "gzip data" or "a zip archive".
    pub what: String,
    /// The command, such as `gzip -dc FILE`.
    pub command: String,
}

impl Packed {
    /// Recognizes data that begin with `head`; `None` if they are not packed.
    pub fn of(head: &[u8]) -> Option<Self> {
        let compressed = Compression::begins(head).map(|compression| Self {
            what: format!("{compression} data"),
            command: format!("{compression} -dc FILE"),
        });
        let archive = || {
            Archive::of(head).map(|archive| Self {
                what: archive.what.into(),
                command: archive.command.into(),
            })
        };
        compressed.or_else(archive)
    }
}

impl Compression {
    /// Returns the compression of a file by its first bytes, else by its name; `None` for a file
    /// that is read as it is.
    ///
    /// # Errors
    /// An unsupported file: its format in words, and how to unpack it.
    pub fn of(path: &Path, head: &[u8]) -> Result<Option<Self>, String> {
        if let Some(compression) = Self::begins(head) {
            return Ok(Some(compression));
        }
        Self::refuse(head)?;
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        let named = match ending.as_deref().and_then(|ending| ending.to_str()) {
            Some("gz" | "gzip" | "tgz") => Self::Gzip,
            Some("zst" | "zstd") => Self::Zstd,
            _ => return Ok(None),
        };
        match head.len() {
            0..4 => Ok(Some(named)),
            len => Err(format!(
                "expected {named} data, as the file's name says, found damaged or other data that begin with `{}`; if \
                 the file is not compressed, rename it",
                head[..len.min(16)].escape_ascii()
            )),
        }
    }

    /// Fails if a compressed file contains compressed data or an archive.
    ///
    /// # Errors
    /// The format of the content, in words.
    pub fn refuse_nested(head: &[u8]) -> Result<(), String> {
        match Self::begins(head) {
            Some(again) => Err(format!(
                "{again} data again: decompress it once (`{again} -dc FILE > NEW`), or twice and give the inner file"
            )),
            None => Self::refuse(head),
        }
    }

    fn refuse(head: &[u8]) -> Result<(), String> {
        match Archive::of(head) {
            None => Ok(()),
            Some(Archive { what, command, .. }) => Err(format!(
                "{what}, which is not supported: unpack it (`{command}`), or compress its files with gzip or zstd"
            )),
        }
    }

    /// Returns the compression whose magic bytes begin `head`.
    pub fn begins(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            // a frame, or a skippable frame
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Returns whether bzip2's block size and first block mark follow.
fn is_bzip2(head: &[u8]) -> bool {
    let mark = head.get(4..10);
    matches!(head.get(3), Some(b'1'..=b'9')) && (mark == Some(b"1AY&SY") || mark == Some(b"\x17\x72\x45\x38\x50\x90"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_before_the_name() {
        let of = |name: &str, head: &[u8]| Compression::of(Path::new(name), head);
        assert_eq!(of("a.bin", b"\x1f\x8b\x08\0"), Ok(Some(Compression::Gzip)));
        assert_eq!(of("a.gz", b"\x28\xb5\x2f\xfd"), Ok(Some(Compression::Zstd)));
        assert_eq!(of("a", b"\x5a\x2a\x4d\x18"), Ok(Some(Compression::Zstd)));
        assert_eq!(of("a.GZ", b"\x1f"), Ok(Some(Compression::Gzip)));
        let message = of("a.GZ", b"plain text").unwrap_err();
        assert!(
            message.contains("as the file's name says") && message.contains("`plain text`"),
            "{message}"
        );
        assert_eq!(of("a.txt.zst", b""), Ok(Some(Compression::Zstd)));
        assert_eq!(of("gz", b"plain text"), Ok(None));
        assert_eq!(of("a.txt", b"BZh is no archive"), Ok(None));
        assert_eq!(of("a.txt", b"PK means Peter Knapp"), Ok(None));
    }

    #[test]
    fn what_is_packed_twice_is_refused() {
        assert!(
            Compression::refuse_nested(b"\x1f\x8b\x08\0")
                .unwrap_err()
                .contains("gzip -dc")
        );
        assert!(
            Compression::refuse_nested(b"\x28\xb5\x2f\xfd")
                .unwrap_err()
                .contains("zstd -dc")
        );
        assert!(
            Compression::refuse_nested(b"BZh91AY&SY")
                .unwrap_err()
                .contains("bunzip2")
        );
        assert_eq!(Compression::refuse_nested(b"plain text"), Ok(()));
    }

    #[test]
    fn archives_name_the_command_that_unpacks_them() {
        let of = |head: &[u8]| Compression::of(Path::new("data.txt"), head).unwrap_err();
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, command) in [
            (&b"PK\x03\x04\x14\0"[..], "unzip"),
            (b"BZh91AY&SY", "bunzip2"),
            (b"BZh9\x17\x72\x45\x38\x50\x90", "bunzip2"),
            (b"\xfd7zXZ\0\0", "unxz"),
            (b"7z\xbc\xaf\x27\x1c", "7z x"),
            (b"Rar!\x1a\x07\0", "unrar"),
            (b"\x04\x22\x4d\x18", "unlz4"),
            (&tar, "tar xf"),
        ] {
            let message = of(head);
            assert!(
                message.contains(command) && message.contains("gzip or zstd"),
                "{message}"
            );
        }
    }
}
