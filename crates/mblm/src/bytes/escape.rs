//! Bytes as people type them: text with escapes.
//!
//! | typed | byte |
//! |---|---|
//! | `\n` `\t` `\r` `\0` | newline, tab, carriage return, zero |
//! | `\xHH` | the byte of these two hexadecimal digits |
//! | `\` and an ASCII character other than a letter or digit | that character: `\\`, `\-` |
//!
//! Any other character stands for its UTF-8 bytes.
//!
//! ```
//! use mblm::bytes::escape::unescape;
//!
//! assert_eq!(unescape(r"a\n\x00")?, b"a\n\0");
//! # Ok::<(), mblm::Error>(())
//! ```

use std::str::Chars;

use crate::{Error, Result};

/// One typed character or escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// An unescaped character.
    Character(char),
    /// The byte of an escape.
    Escaped(u8),
}

/// Returns the bytes of a text with escapes.
///
/// # Errors
/// An escape that is not in the [table](self).
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    for typed in typed(text)? {
        match typed {
            Typed::Character(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Typed::Escaped(byte) => bytes.push(byte),
        }
    }
    Ok(bytes)
}

/// Parses a text with escapes, one item at a time.
pub(crate) fn typed(text: &str) -> Result<Vec<Typed>> {
    let mut characters = text.chars();
    let mut all = Vec::with_capacity(text.len());
    while let Some(character) = characters.next() {
        all.push(match character {
            '\\' => Typed::Escaped(escaped(&mut characters)?),
            other => Typed::Character(other),
        });
    }
    Ok(all)
}

/// Returns the byte of an escape whose `\` has been read.
fn escaped(characters: &mut Chars<'_>) -> Result<u8> {
    let found = characters.next();
    let byte = match found {
        Some('n') => Some(b'\n'),
        Some('t') => Some(b'\t'),
        Some('r') => Some(b'\r'),
        Some('0') => Some(0),
        Some('x') => hexadecimal(characters),
        Some(other) if !other.is_ascii_alphanumeric() => u8::try_from(other).ok().filter(u8::is_ascii),
        _ => None,
    };
    byte.ok_or_else(|| {
        let found = found.map_or("the end".to_string(), |found| format!("`{found}`"));
        Error::input(format!(
            "after `\\`: expected n, t, r, 0, x with two hexadecimal digits (as in \\x1b) or the character itself \
             (\\\\ for a backslash), found {found}"
        ))
    })
}

fn hexadecimal(characters: &mut Chars<'_>) -> Option<u8> {
    let high = characters.next()?.to_digit(16)?;
    let low = characters.next()?.to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns each byte in one of its spellings.
    fn typed_by(byte: u8, plainly: bool) -> String {
        match byte {
            b'\n' => "\\n".into(),
            b'\\' => "\\\\".into(),
            b' '..=b'~' if plainly => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        }
    }

    proptest! {
        #[test]
        fn all_bytes_can_be_typed(bytes in prop::collection::vec((any::<u8>(), any::<bool>()), 0..40)) {
            let text: String = bytes.iter().map(|&(byte, plainly)| typed_by(byte, plainly)).collect();
            let expected: Vec<u8> = bytes.iter().map(|&(byte, _)| byte).collect();
            prop_assert_eq!(unescape(&text)?, expected);
        }

        #[test]
        fn text_without_a_backslash_is_itself(text in "[^\\\\]*") {
            prop_assert_eq!(unescape(&text)?, text.as_bytes());
        }
    }

    #[test]
    fn escapes_by_name() {
        assert_eq!(
            unescape("a\\n\\t\\r\\0\\\\\\-\\ é").unwrap(),
            "a\n\t\r\0\\- é".as_bytes()
        );
        assert_eq!(unescape("\\xFf\\x00").unwrap(), [255, 0]);
    }

    #[test]
    fn other_escapes_are_errors() {
        for (text, found) in [
            ("\\q", "`q`"),
            ("a\\", "the end"),
            ("\\x1", "`x`"),
            ("\\xg0", "`x`"),
            ("\\é", "`é`"),
        ] {
            let message = unescape(text).unwrap_err().to_string();
            assert!(message.ends_with(&format!("found {found}")), "{text}: {message}");
        }
    }
}
