//! UTF-8 byte by byte: an automaton of eight states that knows the allowed next bytes.
//!
//! The rules are table 3-7 of the Unicode standard ("Well-Formed UTF-8 Byte Sequences"). It
//! excludes overlong forms, surrogates and code points above U+10FFFF:
//!
//! | first | second | third | fourth |
//! |---|---|---|---|
//! | 00–7F | | | |
//! | C2–DF | 80–BF | | |
//! | E0 | **A0**–BF | 80–BF | |
//! | E1–EC, EE–EF | 80–BF | 80–BF | |
//! | ED | 80–**9F** | 80–BF | |
//! | F0 | **90**–BF | 80–BF | 80–BF |
//! | F1–F3 | 80–BF | 80–BF | 80–BF |
//! | F4 | 80–**8F** | 80–BF | 80–BF |
//!
//! ```
//! use mblm::bytes::Utf8State;
//!
//! let state = Utf8State::Boundary.next(0xc3).expect("C3 begins a character of two bytes");
//! assert_eq!((state, state.missing()), (Utf8State::One, 1));
//! assert_eq!(state.next(b'a'), None);
//! ```

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// The next expected bytes in a stream of UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Utf8State {
    /// A new character: the bytes so far are valid UTF-8.
    #[default]
    Boundary,
    /// One continuation byte.
    One,
    /// Two continuation bytes.
    Two,
    /// Three continuation bytes.
    Three,
    /// Two bytes after E0, the first high enough that the form is not overlong.
    AfterE0,
    /// Two bytes after ED, the first low enough that the character is not a surrogate.
    AfterEd,
    /// Three bytes after F0, the first high enough that the form is not overlong.
    AfterF0,
    /// Three bytes after F4, the first low enough that the character is at most U+10FFFF.
    AfterF4,
}

impl Utf8State {
    /// Returns the state after `byte`, or `None` if valid UTF-8 cannot continue with it.
    pub fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Boundary, 0x00..=0x7F) => Some(Self::Boundary),
            (Self::Boundary, 0xC2..=0xDF) => Some(Self::One),
            (Self::Boundary, 0xE0) => Some(Self::AfterE0),
            (Self::Boundary, 0xED) => Some(Self::AfterEd),
            (Self::Boundary, 0xE1..=0xEF) => Some(Self::Two),
            (Self::Boundary, 0xF0) => Some(Self::AfterF0),
            (Self::Boundary, 0xF1..=0xF3) => Some(Self::Three),
            (Self::Boundary, 0xF4) => Some(Self::AfterF4),
            (Self::One, 0x80..=0xBF) => Some(Self::Boundary),
            (Self::Two, 0x80..=0xBF) | (Self::AfterE0, 0xA0..=0xBF) | (Self::AfterEd, 0x80..=0x9F) => Some(Self::One),
            (Self::Three, 0x80..=0xBF) | (Self::AfterF0, 0x90..=0xBF) | (Self::AfterF4, 0x80..=0x8F) => Some(Self::Two),
            _ => None,
        }
    }

    /// Returns the state after `byte` in a stream that may be invalid: invalid bytes are skipped.
    ///
    /// A byte that cannot continue a character may still begin the next one.
    pub fn next_lossy(self, byte: u8) -> Self {
        self.next(byte)
            .or_else(|| Self::Boundary.next(byte))
            .unwrap_or_default()
    }

    /// Returns the number of bytes missing from the current character, 0 to 3.
    pub fn missing(self) -> usize {
        match self {
            Self::Boundary => 0,
            Self::One => 1,
            Self::Two | Self::AfterE0 | Self::AfterEd => 2,
            Self::Three | Self::AfterF0 | Self::AfterF4 => 3,
        }
    }

    /// Returns the allowed next bytes, for which [`next`](Self::next) returns a state.
    pub fn allowed(self) -> &'static [RangeInclusive<u8>] {
        match self {
            Self::Boundary => &[0x00..=0x7F, 0xC2..=0xF4],
            Self::One | Self::Two | Self::Three => &[0x80..=0xBF],
            Self::AfterE0 => &[0xA0..=0xBF],
            Self::AfterEd => &[0x80..=0x9F],
            Self::AfterF0 => &[0x90..=0xBF],
            Self::AfterF4 => &[0x80..=0x8F],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries every byte after `valid`, an incomplete sequence, and follows the allowed ones;
    /// returns the number of characters found.
    fn compare_with_std(state: Utf8State, valid: &mut Vec<u8>) -> usize {
        let mut characters = 0;
        for byte in 0..=255 {
            valid.push(byte);
            let next = state.next(byte);
            assert_eq!(
                next.is_some(),
                state.allowed().iter().any(|range| range.contains(&byte))
            );
            match std::str::from_utf8(valid) {
                Ok(_) => {
                    assert_eq!(next, Some(Utf8State::Boundary), "{valid:x?}");
                    characters += 1;
                }
                Err(error) if error.error_len().is_none() => {
                    let next = next.unwrap_or_else(|| panic!("{valid:x?} may go on"));
                    assert_ne!(next, Utf8State::Boundary, "{valid:x?}");
                    characters += compare_with_std(next, valid);
                }
                Err(_) => assert_eq!(next, None, "{valid:x?}"),
            }
            valid.pop();
        }
        characters
    }

    #[test]
    fn accepts_exactly_what_std_accepts() {
        let every_scalar_value = 0x11_0000 - 0x800;
        assert_eq!(
            compare_with_std(Utf8State::Boundary, &mut Vec::new()),
            every_scalar_value
        );
    }

    #[test]
    fn missing_counts_the_rest_of_the_character() {
        for character in ['a', 'é', '\u{800}', '\u{d7ff}', '✓', '\u{10000}', '😀', '\u{10ffff}'] {
            let mut buffer = [0; 4];
            let mut state = Utf8State::Boundary;
            let bytes = character.encode_utf8(&mut buffer).as_bytes();
            for (index, &byte) in bytes.iter().enumerate() {
                state = state.next(byte).unwrap();
                assert_eq!(state.missing(), bytes.len() - index - 1);
            }
        }
    }

    #[test]
    fn passes_over_what_cannot_be_decoded() {
        let after = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(Utf8State::Boundary, |state, &byte| state.next_lossy(byte))
        };
        assert_eq!(after(b"\xE2\x9C"), Utf8State::One);
        assert_eq!(after(b"\xE2\x9Ca"), Utf8State::Boundary);
        assert_eq!(after(b"\xE2\xF0"), Utf8State::AfterF0);
        assert_eq!(after(b"\xFF\x80"), Utf8State::Boundary);
    }
}
