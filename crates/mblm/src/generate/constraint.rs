//! Constraints that depend on the output so far: valid UTF-8.
//!
//! A constraint returns the allowed next ids ([`Utf8Only::allowed_next`]) and is advanced by the
//! chosen id ([`Utf8Only::advance`]). Its set goes to
//! [`Sampler::next_among`](super::Sampler::next_among).
//!
//! ```
//! use mblm::generate::Utf8Only;
//!
//! let utf8 = Utf8Only::after(b"caf\xc3");
//! assert!(!utf8.is_complete());
//! assert!(utf8.allowed_next().contains(0xa9) && !utf8.allowed_next().contains(u32::from(b'e')));
//! ```

use serde::{Deserialize, Serialize};

use super::TokenSet;
use crate::bytes::Utf8State;
use crate::{Error, Result};

/// Keeps a stream of bytes valid UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
///
/// Special ids (above 255) are not bytes and never in its sets. A caller that lets such an id end
/// the stream adds it if [`is_complete`](Self::is_complete), so that no character is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Utf8Only {
    state: Utf8State,
}

impl Utf8Only {
    /// Creates the constraint on the text after `prompt`, whose last character may be incomplete.
    ///
    /// The prompt may be any bytes; undecodable parts are skipped.
    pub fn after(prompt: &[u8]) -> Self {
        let state = prompt
            .iter()
            .fold(Utf8State::Boundary, |state, &byte| state.next_lossy(byte));
        Self { state }
    }

    /// Whether the last character is complete, so that the stream may end here.
    pub fn is_complete(&self) -> bool {
        self.state == Utf8State::Boundary
    }

    /// The bytes that may come next.
    pub fn allowed_next(&self) -> TokenSet {
        let ranges = self.state.allowed().iter();
        TokenSet::from_ranges(ranges.map(|range| (u32::from(*range.start()), u32::from(*range.end()))))
    }

    /// The bytes that may come next if `remaining` bytes are left, the next one included: no
    /// character begins that would not fit. Empty if `remaining` is 0.
    pub fn allowed_within(&self, remaining: usize) -> TokenSet {
        let fits = |byte: &u32| {
            // ids of `allowed_next` are bytes, and have a next state
            let next = u8::try_from(*byte).ok().and_then(|byte| self.state.next(byte));
            next.is_some_and(|next| next.missing() < remaining)
        };
        match remaining {
            0 => TokenSet::none(),
            // The longest character has four bytes. One begun earlier can only be continued.
            1..4 if self.is_complete() => self.allowed_next().ids_below(256).filter(fits).collect(),
            _ => self.allowed_next(),
        }
    }

    /// The bytes of [`allowed_within`](Self::allowed_within) that are in `bytes`, if no other bytes
    /// are ever produced: no character begins that these bytes cannot complete.
    pub fn allowed_among(&self, bytes: &TokenSet, remaining: usize) -> TokenSet {
        let allowed = self.allowed_within(remaining).intersection(bytes);
        if TokenSet::bytes().intersection(bytes) == TokenSet::bytes() {
            return allowed;
        }
        // Bytes after the next one may be any of 80–BF: they are possible if the next one is.
        let goes_on = |byte: &u32| {
            let next = u8::try_from(*byte).ok().and_then(|byte| self.state.next(byte));
            next.is_some_and(|state| {
                let next = Self { state };
                next.is_complete() || !next.allowed_next().intersection(bytes).is_empty()
            })
        };
        allowed.ids_below(256).filter(goes_on).collect()
    }

    /// Advances by a byte.
    ///
    /// # Errors
    ///
    /// Fails, without a change, if the byte is not in [`allowed_next`](Self::allowed_next).
    pub fn advance(&mut self, byte: u8) -> Result<()> {
        self.state = self.state.next(byte).ok_or_else(|| {
            Error::input(format!(
                "byte {byte} cannot come next in valid UTF-8: expected one of {}; draw only from the allowed ids",
                self.allowed_next()
            ))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pick(allowed: &TokenSet, choice: prop::sample::Index) -> u8 {
        let bytes: Vec<u32> = allowed.ids_below(u32::MAX).collect();
        u8::try_from(*choice.get(&bytes)).unwrap()
    }

    proptest! {
        /// Any choice among the allowed bytes gives valid text of the requested length.
        #[test]
        fn choices_within_a_length_are_valid_text(
            choices in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let mut constraint = Utf8Only::default();
            let mut bytes = Vec::new();
            for (index, choice) in choices.iter().enumerate() {
                let byte = pick(&constraint.allowed_within(choices.len() - index), *choice);
                prop_assert!(constraint.allowed_next().contains(u32::from(byte)));
                constraint.advance(byte)?;
                bytes.push(byte);
                prop_assert_eq!(constraint.is_complete(), std::str::from_utf8(&bytes).is_ok());
            }
            prop_assert!(std::str::from_utf8(&bytes).is_ok());
            prop_assert!(constraint.allowed_within(0).is_empty());
        }

        /// Every text can be produced, also within exactly its length.
        #[test]
        fn every_text_is_allowed(text in any::<String>()) {
            let mut constraint = Utf8Only::default();
            for (index, byte) in text.bytes().enumerate() {
                prop_assert!(constraint.allowed_within(text.len() - index).contains(u32::from(byte)));
                constraint.advance(byte)?;
            }
            prop_assert!(constraint.is_complete());
        }
    }

    proptest! {
        /// If only some bytes can be produced, one is always allowed next, and the text is valid.
        #[test]
        fn some_bytes_are_enough(
            some in prop::collection::btree_set(any::<u8>(), 0..20),
            choices in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            // with one single-byte character, so that some text is possible
            let some: TokenSet = some.into_iter().map(u32::from).chain([65]).collect();
            let mut constraint = Utf8Only::default();
            let mut bytes = Vec::new();
            for (index, choice) in choices.iter().enumerate() {
                let allowed = constraint.allowed_among(&some, choices.len() - index);
                prop_assert_eq!(&allowed.intersection(&some), &allowed);
                prop_assert!(!allowed.is_empty());
                let byte = pick(&allowed, *choice);
                constraint.advance(byte)?;
                bytes.push(byte);
            }
            prop_assert!(std::str::from_utf8(&bytes).is_ok());
        }
    }

    #[test]
    fn only_characters_that_can_be_completed_begin() {
        let among = |bytes: &str| {
            Utf8Only::default()
                .allowed_among(&bytes.parse().unwrap(), 100)
                .to_string()
        };
        assert_eq!(among("all"), "0-127,194-244");
        assert_eq!(among("65,200-255"), "65");
        // after E0 comes A0 at least, after F0 90, after ED at most 9F
        assert_eq!(among("128,194-255"), "194-223,225-239,241-244");
        assert_eq!(among("160,194-255"), "194-236,238-243");
    }

    #[test]
    fn sets_of_the_first_byte_by_room() {
        let sets = [1, 2, 3, 4, 100].map(|remaining| Utf8Only::default().allowed_within(remaining).to_string());
        assert_eq!(
            sets,
            [
                "0-127",
                "0-127,194-223",
                "0-127,194-239",
                "0-127,194-244",
                "0-127,194-244"
            ]
        );
    }

    #[test]
    fn continues_the_prompt() {
        assert_eq!(Utf8Only::after(b"\xFF\xED").allowed_next().to_string(), "128-159");
        // A character that no longer fits is still continued, never broken.
        assert_eq!(Utf8Only::after(b"ab\xF0").allowed_within(1).to_string(), "144-191");
        assert!(Utf8Only::after("é".as_bytes()).is_complete());
    }

    #[test]
    fn refuses_other_bytes() {
        let mut constraint = Utf8Only::after(b"\xE0");
        let message = constraint.advance(0x80).unwrap_err().to_string();
        assert!(message.contains("byte 128") && message.contains("160-191"), "{message}");
        assert_eq!(constraint, Utf8Only::after(b"\xE0"));
    }
}
