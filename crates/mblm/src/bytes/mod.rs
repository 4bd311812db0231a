//! Bytes and ids: what a model reads and writes.
//!
//! Ids below [`BYTE_IDS`] are the bytes of that value; other ids are special (padding, masks,
//! beginning and end of a modality) and have no byte. Ids are `u32` everywhere.
//!
//! | file | holds |
//! |---|---|
//! | [`escape`] | parsing of typed bytes with escapes |
//! | [`patches`] | the arithmetic of the hierarchy: padded length, sequences and positions of every stage |
//! | [`stream`] | generated ids → raw bytes, text or integers |
//! | [`utf8`] | which bytes may follow which in UTF-8 |
//!
//! ```
//! use mblm::bytes::{ids_from_bytes, pad_to_multiple};
//!
//! let mut ids = ids_from_bytes(b"abc");
//! pad_to_multiple(&mut ids, 4, 256)?;
//! assert_eq!(ids, [97, 98, 99, 256]);
//! # Ok::<(), mblm::Error>(())
//! ```

pub mod escape;
pub mod patches;
pub mod stream;
pub mod utf8;

pub use patches::{Patches, Place};
pub use stream::{ByteStream, Format, SpecialIds};
pub use utf8::Utf8State;

use crate::{Error, Result};

/// The number of ids that are bytes: 0 to 255. Higher ids are special.
pub const BYTE_IDS: u32 = 256;

/// Returns one id for each byte.
pub fn ids_from_bytes(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|&byte| u32::from(byte)).collect()
}

/// Appends `pad` until the number of ids is a multiple of `multiple`; 0 counts as one.
///
/// # Errors
/// If `multiple` is 0 or the padded ids do not fit into memory; `ids` is unchanged then.
pub fn pad_to_multiple(ids: &mut Vec<u32>, multiple: usize, pad: u32) -> Result<()> {
    if multiple == 0 {
        return Err(Error::input("cannot pad to a multiple of 0 ids: expected 1 or more"));
    }
    let length = ids.len();
    let too_long = || {
        Error::input(format!(
            "cannot pad {length} ids to a multiple of {multiple}: too long for memory; use smaller `seq_lens`"
        ))
    };
    let padded = length.checked_next_multiple_of(multiple).ok_or_else(too_long)?;
    let missing = padded - length;
    if ids.try_reserve_exact(missing).is_err() {
        return Err(too_long());
    }
    ids.resize(padded, pad);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn padding_is_the_shortest_to_a_multiple(
            bytes in prop::collection::vec(any::<u8>(), 0..50),
            multiple in 1usize..20,
        ) {
            let mut ids = ids_from_bytes(&bytes);
            pad_to_multiple(&mut ids, multiple, 300)?;
            prop_assert!(ids.len().is_multiple_of(multiple));
            prop_assert!(ids.len() < bytes.len() + multiple);
            prop_assert!(ids.iter().zip(&bytes).all(|(&id, &byte)| id == u32::from(byte)));
            prop_assert!(ids[bytes.len()..].iter().all(|&id| id == 300));
        }
    }

    #[test]
    fn impossible_padding_is_an_error() {
        let mut ids = vec![1];
        for (multiple, expected) in [
            (0, "multiple of 0"),
            (usize::MAX, "too long"),
            (usize::MAX / 2, "too long"),
        ] {
            let message = pad_to_multiple(&mut ids, multiple, 0).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert_eq!(ids, [1]);
        }
    }
}
