//! Random access to a sequence of bytes, of which only the requested part is in memory.

use std::path::PathBuf;

use crate::{Error, Result};

/// Bytes 0…len−1, readable from several threads.
pub trait ByteSource: Send + Sync {
    /// Returns the number of bytes.
    fn len(&self) -> u64;

    /// Returns whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The range exceeds the source, or the bytes cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Returns the offsets at which the files begin, ascending from 0; `[0]` without files.
    fn starts(&self) -> Vec<u64> {
        vec![0]
    }

    /// Returns the origin of byte `offset` for messages: its file, if any, and the offset therein.
    fn locate(&self, offset: u64) -> (PathBuf, u64);
}

impl ByteSource for Vec<u8> {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or_else(|| out_of_range(offset, buffer.len(), ByteSource::len(self)))?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn locate(&self, offset: u64) -> (PathBuf, u64) {
        (PathBuf::from("memory"), offset)
    }
}

/// Returns the error of reading beyond the end.
pub(super) fn out_of_range(offset: u64, count: usize, len: u64) -> Error {
    Error::input(format!(
        "cannot read {count} bytes at offset {offset}: the data has {len} bytes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_within_its_bounds() {
        let source = b"abcdef".to_vec();
        let mut buffer = [0; 3];
        source.read(2, &mut buffer).unwrap();
        assert_eq!(&buffer, b"cde");
        let message = source.read(4, &mut buffer).unwrap_err().to_string();
        assert_eq!(message, "cannot read 3 bytes at offset 4: the data has 6 bytes");
        assert!(source.read(u64::MAX, &mut buffer).is_err());
    }
}
