//! Files as one sequence of ids, with a separator id between consecutive files.
//!
//! Let the files within the bytes `range` of a source begin at the borders b_1 < b_2 < …. Each
//! position of the sequence is a byte or a separator: separator j (from 0) is at position b_{j+1} −
//! range.start + j, right before the first byte of its file. Without a separator id positions are
//! bytes.

use std::ops::Range;

use super::source::ByteSource;
use crate::{Error, Result};

/// The separator id and the positions of the separators.
#[derive(Clone, Debug)]
pub(super) struct Separators {
    range: Range<u64>,
    /// The offsets of the files' first bytes within the range, its own first byte excluded.
    borders: Vec<u64>,
    id: u32,
}

impl Separators {
    /// Describes the bytes `range` of `source`, with `id` between its files if there is one.
    pub(super) fn new(source: &dyn ByteSource, range: Range<u64>, id: Option<u32>) -> Self {
        let within = |border: &u64| (range.start + 1..range.end).contains(border);
        let borders = match id {
            Some(_) => source.starts().into_iter().filter(within).collect(),
            None => Vec::new(),
        };
        Self {
            range,
            borders,
            id: id.unwrap_or_default(),
        }
    }

    /// Returns the number of positions: bytes and separators.
    pub(super) fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start) + self.borders.len() as u64
    }

    /// Returns the number of separators.
    pub(super) fn count(&self) -> usize {
        self.borders.len()
    }

    /// Returns the position of separator `index`.
    fn position(&self, index: usize) -> u64 {
        self.borders[index] - self.range.start + index as u64
    }

    /// Returns the number of separators before `position`.
    fn before(&self, position: u64) -> usize {
        // binary search over the ascending positions
        let (mut low, mut high) = (0, self.borders.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.position(middle) < position {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Returns the `count` ids from `position` on.
    ///
    /// # Errors
    /// Read errors; a byte outside a vocabulary of `num_tokens` ids, with its file and offset.
    pub(super) fn read(
        &self,
        source: &dyn ByteSource,
        position: u64,
        count: usize,
        num_tokens: usize,
    ) -> Result<Vec<u32>> {
        let end = position.saturating_add(count as u64);
        let separators = self.before(position)..self.before(end);
        let offset = self.range.start + position - separators.start as u64;
        let mut bytes = vec![0; count - separators.len()];
        source.read(offset, &mut bytes)?;
        if num_tokens < 256 {
            check_vocabulary(source, &bytes, offset, num_tokens)?;
        }
        let mut ids = Vec::with_capacity(count);
        let mut rest = &bytes[..];
        for index in separators {
            // below `count`: the separator lies within the ids that are read
            let (before, after) = rest.split_at((self.position(index) - position) as usize - ids.len());
            ids.extend(before.iter().copied().map(u32::from));
            ids.push(self.id);
            rest = after;
        }
        ids.extend(rest.iter().copied().map(u32::from));
        Ok(ids)
    }
}

fn check_vocabulary(source: &dyn ByteSource, bytes: &[u8], offset: u64, num_tokens: usize) -> Result<()> {
    let Some(index) = bytes.iter().position(|&byte| usize::from(byte) >= num_tokens) else {
        return Ok(());
    };
    let (path, offset) = source.locate(offset + index as u64);
    Err(Error::file(
        path,
        format!(
            "byte {} at offset {offset} is outside the model's vocabulary: num_tokens is {num_tokens}; set it to at \
             least 256 to read any file",
            bytes[index]
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// Files in memory.
    struct Parts(Vec<Vec<u8>>);

    impl ByteSource for Parts {
        fn len(&self) -> u64 {
            self.0.concat().len() as u64
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.0.concat().read(offset, buffer)
        }

        fn locate(&self, offset: u64) -> (PathBuf, u64) {
            (PathBuf::from("memory"), offset)
        }

        fn starts(&self) -> Vec<u64> {
            let mut start = 0;
            let starts = self.0.iter().map(|part| {
                start += part.len() as u64;
                start - part.len() as u64
            });
            starts.collect()
        }
    }

    proptest! {
        #[test]
        fn any_part_is_that_of_the_files_joined_by_the_separator(
            parts in prop::collection::vec(prop::collection::vec(0u8..200, 1..9), 1..6), cut in any::<[u16; 4]>()
        ) {
            let total = parts.concat().len();
            let source = Parts(parts.clone());
            // a range of whole bytes, and a piece of it
            let start = usize::from(cut[0]) % total;
            let end = start + 1 + usize::from(cut[1]) % (total - start);
            let mut expected = Vec::new();
            let mut offset = 0;
            for part in &parts {
                for (index, byte) in part.iter().enumerate() {
                    if (start..end).contains(&offset) {
                        if index == 0 && offset > start {
                            expected.push(300);
                        }
                        expected.push(u32::from(*byte));
                    }
                    offset += 1;
                }
            }
            let separators = Separators::new(&source, start as u64..end as u64, Some(300));
            prop_assert_eq!(separators.len(), expected.len() as u64);
            prop_assert_eq!(separators.count(), expected.iter().filter(|id| **id == 300).count());
            let from = usize::from(cut[2]) % expected.len();
            let count = usize::from(cut[3]) % (expected.len() - from + 1);
            let found = separators.read(&source, from as u64, count, 301).unwrap();
            prop_assert_eq!(&found[..], &expected[from..from + count]);

            let plain = Separators::new(&source, start as u64..end as u64, None);
            prop_assert_eq!(plain.len(), (end - start) as u64);
            expected.retain(|id| *id != 300);
            prop_assert_eq!(plain.read(&source, 0, end - start, 256).unwrap(), expected);
        }
    }
}
