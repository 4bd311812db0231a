//! Checksums of a folder's files: `SHA256SUMS`, in the format of the program `sha256sum`.
//!
//! Each line has 64 hexadecimal digits, two spaces and the name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

use super::layout::SUMS_FILE;

/// The longest accepted file of checksums, in bytes.
const MAX_SUMS: u64 = 1 << 20;

/// A writer that computes the checksum of the bytes it passes on.
pub(super) struct Hashing<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
}

impl<'a> Hashing<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            hash: Sha256::new(),
        }
    }

    pub(super) fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Formats bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the text of the file of checksums.
pub(super) fn sums_text(sums: &[(String, String)]) -> String {
    sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}

/// Checks the files of a folder against its checksums; returns `false` if it has none.
///
/// # Errors
/// A file that is missing or has changed since it was written; an invalid file of checksums.
pub fn verify(folder: &Path) -> Result<bool> {
    let path = folder.join(SUMS_FILE);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_SUMS).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result.map_err(|error| Error::file(&path, error))?,
    };
    if text.is_empty() {
        return Err(Error::file(&path, "expected checksums, found an empty file"));
    }
    for line in text.lines() {
        let Some((expected, name)) = line.split_once("  ").filter(|(_, name)| is_plain(name)) else {
            return Err(Error::file(
                &path,
                format!("expected a checksum and a file's name, found `{line}`"),
            ));
        };
        let file = folder.join(name);
        let found = sum_of(&file).map_err(|error| Error::file(&file, error))?;
        if found != expected {
            return Err(Error::file(
                &file,
                format!(
                    "the file is damaged: its SHA-256 is {}…, but {SUMS_FILE} says {}…; restore it from a copy, or \
                     remove {SUMS_FILE} if you changed the file yourself",
                    &found[..12],
                    expected.get(..12).unwrap_or(expected)
                ),
            ));
        }
    }
    Ok(true)
}

/// Returns whether a name is a file directly in the folder.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name)
}

fn sum_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::atomic;
    use super::*;

    fn folder() -> tempfile::TempDir {
        let parent = tempfile::tempdir().unwrap();
        atomic::write_folder(&parent.path().join("f"), |folder| {
            folder.write("a", |out| out.write_all(b"abc"))?;
            folder.write("b", |out| out.write_all(&[7; 1000]))
        })
        .unwrap();
        parent
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        let parent = folder();
        let text = std::fs::read_to_string(parent.path().join("f").join(SUMS_FILE)).unwrap();
        // expected value of `printf abc | sha256sum`
        assert!(
            text.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n"),
            "{text}"
        );
        assert!(verify(&parent.path().join("f")).unwrap());
        assert!(!verify(parent.path()).unwrap());
    }

    #[test]
    fn every_change_of_a_file_is_found() {
        let parent = folder();
        let (folder, b) = (parent.path().join("f"), parent.path().join("f/b"));
        for place in [0, 500, 999] {
            let mut bytes = vec![7; 1000];
            bytes[place] ^= 1;
            std::fs::write(&b, &bytes).unwrap();
            let message = verify(&folder).unwrap_err().to_string();
            assert!(message.contains("f/b: the file is damaged"), "{message}");
        }
        std::fs::write(&b, [7; 999]).unwrap();
        assert!(verify(&folder).is_err());
        std::fs::remove_file(&b).unwrap();
        assert!(verify(&folder).is_err());
    }

    #[test]
    fn damaged_sums_are_errors() {
        let parent = folder();
        let folder = parent.path().join("f");
        for text in ["", "nonsense", "ba78  ../f/a", "00  a", "é  a"] {
            std::fs::write(folder.join(SUMS_FILE), text).unwrap();
            assert!(verify(&folder).is_err(), "{text:?}");
        }
        std::fs::write(folder.join(SUMS_FILE), [0xff; 100]).unwrap();
        assert!(verify(&folder).is_err());
    }
}
