//! A sequence of bytes read at any place, of which only the part asked for is in memory.

use std::path::PathBuf;

use crate::{Error, Result};

/// Bytes 0…len−1, readable from several threads.
pub trait ByteSource: Send + Sync {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The range exceeds the source, or the bytes cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Where its files begin, ascending, the first at 0; of what is no file, 0 alone.
    fn starts(&self) -> Vec<u64> {
        vec![0]
    }

    /// Where byte `offset` comes from, for messages: its file and the offset therein, where there is one.
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

/// The error of reading beyond the end.
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
