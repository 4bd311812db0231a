//! The layout of a flat sequence of L bytes in the hierarchy.
//!
//! With stages 0 (the most global) to N−1 (the bytes) and sequence lengths `[P_0, …, P_{N-1}]`, the
//! sequence is padded to a multiple of m = P_1·…·P_{N-1} and read as an array
//! `(P_0', P_1, …, P_{N-1})` with P_0' = ⌈L / m⌉. One position of stage n stands for a patch of
//! P_{n+1}·…·P_{N-1} bytes. Stage n has P_0'·P_1·…·P_{n-1} sequences (stage 0: one) of P_n
//! positions (stage 0: P_0'). The start token before each sequence is not counted.
//!
//! Byte j has the index (i_0, …, i_{N-1}) in that array. In stage n its patch is position i_n of
//! sequence (i_0, …, i_{n-1}), counted in row-major order: j / (patch bytes) split by P_n.
//!
//! ```
//! use mblm::bytes::Patches;
//!
//! let patches = Patches::new(&[4, 8], 20)?; // 4 patches of 8 bytes, of which 20 bytes fill 3
//! assert_eq!((patches.padded_length(), patches.positions()), (24, &[3, 8][..]));
//! # Ok::<(), mblm::Error>(())
//! ```

use crate::{Error, Result};

/// The shape and counts of one sample in every stage; the [module](self) has the formulas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patches {
    length: usize,
    /// Bytes of one position, by stage: P_{n+1}·…·P_{N-1}.
    patch_bytes: Vec<usize>,
    /// Positions of one sequence, by stage: P_0', P_1, …, P_{N-1}.
    positions: Vec<usize>,
    context: usize,
}

/// The location of a byte in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the sequence within the stage.
    pub sequence: usize,
    /// The position in that sequence, not counting the start token.
    pub position: usize,
}

impl Patches {
    /// Returns the shapes for `length` bytes and the sequence lengths `seq_lens`, most global stage
    /// first.
    ///
    /// `length` may exceed the [context size](Self::context_size): P_0' is then larger than P_0,
    /// which models without a fixed position table at stage 0 allow.
    ///
    /// # Errors
    /// If there is no stage, a sequence length is 0, or a product of them overflows.
    pub fn new(seq_lens: &[usize], length: usize) -> Result<Self> {
        let Some((&first, inner)) = seq_lens.split_first() else {
            return Err(Error::input(
                "`seq_lens` is empty: expected the sequence length of each stage",
            ));
        };
        if let Some(stage) = seq_lens.iter().position(|&seq_len| seq_len == 0) {
            return Err(Error::input(format!(
                "`seq_lens` {seq_lens:?}: stage {} has length 0, expected 1 or more",
                stage + 1
            )));
        }
        let too_large = || {
            Error::input(format!(
                "`seq_lens` {seq_lens:?} with {length} bytes: too many positions; use smaller lengths"
            ))
        };
        let mut patch_bytes = vec![1];
        for &seq_len in inner.iter().rev() {
            let bytes: usize = patch_bytes[patch_bytes.len() - 1];
            patch_bytes.push(bytes.checked_mul(seq_len).ok_or_else(too_large)?);
        }
        patch_bytes.reverse();
        let context = first.checked_mul(patch_bytes[0]).ok_or_else(too_large)?;
        length.checked_next_multiple_of(patch_bytes[0]).ok_or_else(too_large)?;
        let mut positions = seq_lens.to_vec();
        positions[0] = length.div_ceil(patch_bytes[0]);
        Ok(Self {
            length,
            patch_bytes,
            positions,
            context,
        })
    }

    /// Returns the number of stages N.
    pub fn stages(&self) -> usize {
        self.positions.len()
    }

    /// Returns the number of real bytes L.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the number of bytes with padding, P_0'·P_1·…·P_{N-1}.
    pub fn padded_length(&self) -> usize {
        // At most the multiple of `patch_bytes[0]` that was checked in `new`.
        self.positions[0] * self.patch_bytes[0]
    }

    /// Returns the number of bytes of a full hierarchy, P_0·P_1·…·P_{N-1}.
    pub fn context_size(&self) -> usize {
        self.context
    }

    /// Returns whether stage 0 has more positions than its configured length P_0.
    pub fn exceeds_context(&self) -> bool {
        self.padded_length() > self.context
    }

    /// Returns the positions of one sequence by stage: the nested shape `(P_0', P_1, …)` of ids.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Returns the bytes of one position by stage.
    pub fn patch_bytes(&self) -> &[usize] {
        &self.patch_bytes
    }

    /// Returns the number of sequences of one sample by stage; without bytes only stage 0 has any.
    pub fn sequences(&self) -> Vec<usize> {
        self.positions
            .iter()
            .scan(1, |sequences, &positions| {
                let here = *sequences;
                // A leading part of the product for the padded length: no larger than it, or 0.
                *sequences *= positions;
                Some(here)
            })
            .collect()
    }

    /// Returns the index of a byte in the nested shape, one coordinate per stage.
    ///
    /// # Errors
    /// If the byte is beyond the padded length.
    pub fn index(&self, byte: usize) -> Result<Vec<usize>> {
        Ok(self.places(byte)?.iter().map(|place| place.position).collect())
    }

    /// Returns the location of a byte, or of its patch, in every stage.
    ///
    /// # Errors
    /// If the byte is beyond the padded length.
    pub fn places(&self, byte: usize) -> Result<Vec<Place>> {
        if byte >= self.padded_length() {
            return Err(Error::input(format!(
                "byte {byte} is outside of the sequence: expected less than {} ({} bytes, padded)",
                self.padded_length(),
                self.length
            )));
        }
        // No divisor is 0: a byte exists, so P_0' is at least 1, and `new` refuses other zeros.
        let places = self.patch_bytes.iter().zip(&self.positions);
        Ok(places
            .map(|(bytes, positions)| Place {
                sequence: byte / bytes / positions,
                position: byte / bytes % positions,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_stages_by_hand() {
        let patches = Patches::new(&[5, 4, 3], 29).unwrap();
        assert_eq!(patches.stages(), 3);
        assert_eq!(patches.patch_bytes(), [12, 3, 1]);
        assert_eq!(patches.positions(), [3, 4, 3]);
        assert_eq!(patches.sequences(), [1, 3, 12]);
        assert_eq!(
            (patches.length(), patches.padded_length(), patches.context_size()),
            (29, 36, 60)
        );
        assert_eq!(patches.index(28).unwrap(), [2, 1, 1]);
        let places = [(0, 2), (2, 1), (9, 1)].map(|(sequence, position)| Place { sequence, position });
        assert_eq!(patches.places(28).unwrap(), places);
    }

    #[test]
    fn one_stage_is_never_padded() {
        let patches = Patches::new(&[8], 11).unwrap();
        assert_eq!((patches.padded_length(), patches.sequences()), (11, vec![1]));
        assert!(patches.exceeds_context());
        assert!(!Patches::new(&[8], 8).unwrap().exceeds_context());
    }

    #[test]
    fn no_bytes_have_no_positions() {
        let patches = Patches::new(&[4, 2], 0).unwrap();
        assert_eq!(
            (patches.padded_length(), patches.positions(), patches.sequences()),
            (0, &[0, 2][..], vec![1, 0])
        );
        assert!(patches.index(0).unwrap_err().to_string().contains("less than 0"));
    }

    #[test]
    fn impossible_shapes_are_errors() {
        let huge = usize::MAX;
        for (seq_lens, length, expected) in [
            (&[][..], 1, "empty"),
            (&[4, 0, 2], 1, "stage 2 has length 0"),
            (&[1, huge, 2], 1, "too many positions"),
            (&[3, huge / 2], 1, "too many positions"),
            (&[1, 2], huge, "too many positions"),
        ] {
            let message = Patches::new(seq_lens, length).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    proptest! {
        /// Walks the nested array in order, one sequence after the other, and meets every byte
        /// where `places` says.
        #[test]
        fn places_agree_with_walking(seq_lens in prop::collection::vec(1usize..5, 1..5), length in 0usize..200) {
            let patches = Patches::new(&seq_lens, length)?;
            let inner: usize = seq_lens[1..].iter().product();
            let padded = patches.padded_length();
            prop_assert!(padded >= length && padded < length + inner);
            prop_assert_eq!(patches.positions().iter().product::<usize>(), padded);
            prop_assert_eq!(patches.exceeds_context(), length > patches.context_size());
            for (stage, sequences) in patches.sequences().into_iter().enumerate() {
                let mut byte = 0;
                for sequence in 0..sequences {
                    for position in 0..patches.positions()[stage] {
                        for _ in 0..patches.patch_bytes()[stage] {
                            prop_assert_eq!(patches.places(byte)?[stage], Place { sequence, position });
                            prop_assert_eq!(patches.index(byte)?[stage], position);
                            byte += 1;
                        }
                    }
                }
                prop_assert_eq!(byte, padded);
            }
            prop_assert!(patches.index(padded).is_err());
        }
    }
}
