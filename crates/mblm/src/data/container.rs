//! What a file's first bytes say that it is: gzip and zstd are read, other archives are refused with the command that unpacks them.

use std::fmt;
use std::path::Path;

/// Bytes of a file that tell what it is.
pub(super) const HEAD: usize = 512;

/// A compression that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
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

/// Archives that are not read: their first bytes, where these stand, the name of the format, the command that unpacks one.
const REFUSED: [(&[u8], usize, &str, &str); 10] = [
    (b"PK\x03\x04", 0, "a zip archive", "unzip FILE"),
    (b"PK\x05\x06", 0, "an empty zip archive", "unzip FILE"),
    (b"BZh", 0, "compressed with bzip2", "bunzip2 FILE"),
    (b"\xfd7zXZ\x00", 0, "compressed with xz", "unxz FILE"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "7z x FILE"),
    (b"Rar!\x1a\x07", 0, "a rar archive", "unrar x FILE"),
    (b"\x04\x22\x4d\x18", 0, "compressed with lz4", "unlz4 FILE"),
    (b"LZIP\x01", 0, "compressed with lzip", "lzip -d FILE"),
    (b"\x1f\x9d", 0, "compressed with compress", "uncompress FILE"),
    (b"ustar", 257, "a tar archive", "tar xf FILE"),
];

impl Compression {
    /// The compression of a file by its first bytes, else by its name; `None` for one that is read as it is, or what to do with one that
    /// is not read.
    pub(super) fn of(path: &Path, head: &[u8]) -> Result<Option<Self>, String> {
        if let Some(compression) = Self::begins(head) {
            return Ok(Some(compression));
        }
        Self::refuse(head)?;
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        Ok(match ending.as_deref().and_then(|ending| ending.to_str()) {
            Some("gz" | "gzip" | "tgz") => Some(Self::Gzip),
            Some("zst" | "zstd") => Some(Self::Zstd),
            _ => None,
        })
    }

    /// Fails for archives that are not read; also for one that stands in a compressed file.
    pub(super) fn refuse(head: &[u8]) -> Result<(), String> {
        let is =
            |(magic, at, ..): &&(&[u8], usize, &str, &str)| head.get(*at..).is_some_and(|head| head.starts_with(magic));
        if let Some((magic, _, what, command)) = REFUSED.iter().find(is)
            && (*magic != b"BZh" || is_bzip2(head))
        {
            return Err(format!(
                "{what}, which is not read: unpack it (`{command}`), or compress its files with gzip or zstd; `raw: true` in \
                 io.dataset_args (`--set io.dataset_args.raw=true`) reads the bytes as they are"
            ));
        }
        Ok(())
    }

    /// The compression of which data begin like this.
    pub(super) fn begins(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            // a frame, or one that is to be skipped
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Whether the size and the first block's mark of bzip2 follow.
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
        assert_eq!(of("a.GZ", b"text"), Ok(Some(Compression::Gzip)));
        assert_eq!(of("a.txt.zst", b""), Ok(Some(Compression::Zstd)));
        assert_eq!(of("gz", b"text"), Ok(None));
        assert_eq!(of("a.txt", b"BZh is no archive"), Ok(None));
        assert_eq!(of("a.txt", b"PK means Peter Knapp"), Ok(None));
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
            assert!(message.contains(command) && message.contains("raw: true"), "{message}");
        }
    }
}
