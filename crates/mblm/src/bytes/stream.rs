//! Generated ids → a stream of raw bytes, text or integers.
//!
//! Text is decoded incrementally: a character is written once its last byte has arrived. Each
//! maximal part of an invalid sequence becomes U+FFFD, as in [`String::from_utf8_lossy`] of all the
//! bytes.
//!
//! ```
//! use mblm::bytes::{ByteStream, Format, SpecialIds};
//!
//! let mut stream = ByteStream::new(Vec::new(), Format::Utf8, SpecialIds::Skip);
//! stream.write_ids(&[0xc3, 0xa9, 256])?;
//! assert_eq!(stream.finish()?, "é".as_bytes());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::{BYTE_IDS, Utf8State};
use crate::Error;

/// The output format of a [`ByteStream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As they are.
    Raw,
    /// As valid UTF-8, with U+FFFD for invalid bytes.
    Utf8,
    /// As decimal numbers, separated by one space.
    Integers,
}

/// The treatment of ids above 255 by a [`ByteStream`], in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecialIds {
    /// Skips them.
    Skip,
    /// Refuses them.
    Error,
}

/// Writes ids to `out` one at a time; [`finish`](Self::finish) ends the text.
///
/// Each complete byte, character or number is one write. Use a buffered writer where speed matters,
/// and [`flush`](Self::flush) to make the output visible.
#[derive(Debug)]
pub struct ByteStream<W: Write> {
    out: W,
    format: Format,
    special: SpecialIds,
    /// Whether a number has been written, so the next one needs a space.
    started: bool,
    /// UTF-8 only: the state, and the bytes of the incomplete character.
    state: Utf8State,
    begun: Vec<u8>,
}

impl<W: Write> ByteStream<W> {
    /// Returns a stream at its beginning.
    pub fn new(out: W, format: Format, special: SpecialIds) -> Self {
        Self {
            out,
            format,
            special,
            started: false,
            state: Utf8State::Boundary,
            begun: Vec::new(),
        }
    }

    /// Writes the next id.
    ///
    /// # Errors
    /// Errors of the writer, unchanged (so that a closed pipe can be told from a full disk), and
    /// [`io::ErrorKind::InvalidData`] for a refused id above 255; the stream can continue after it.
    pub fn write_id(&mut self, id: u32) -> io::Result<()> {
        let Ok(byte) = u8::try_from(id) else {
            return match self.special {
                SpecialIds::Skip => Ok(()),
                SpecialIds::Error => Err(io::Error::new(io::ErrorKind::InvalidData, special_id(id))),
            };
        };
        match self.format {
            Format::Raw => self.out.write_all(&[byte]),
            Format::Utf8 => self.write_utf8(byte),
            Format::Integers => self.write_integer(byte),
        }
    }

    /// Writes several ids; stops at the first error of [`write_id`](Self::write_id).
    pub fn write_ids(&mut self, ids: &[u32]) -> io::Result<()> {
        ids.iter().try_for_each(|&id| self.write_id(id))
    }

    /// Flushes the output. An incomplete character is kept.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the stream: writes U+FFFD for an incomplete character, flushes, and returns the writer.
    pub fn finish(mut self) -> io::Result<W> {
        if self.state != Utf8State::Boundary {
            self.write_replacement()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_utf8(&mut self, byte: u8) -> io::Result<()> {
        let mut next = self.state.next(byte);
        if next.is_none() && self.state != Utf8State::Boundary {
            self.write_replacement()?;
            next = self.state.next(byte);
        }
        let Some(next) = next else {
            return self.write_replacement();
        };
        self.state = next;
        self.begun.push(byte);
        if next == Utf8State::Boundary {
            let written = self.out.write_all(&self.begun);
            self.begun.clear();
            return written;
        }
        Ok(())
    }

    /// Writes U+FFFD in place of the incomplete character.
    fn write_replacement(&mut self) -> io::Result<()> {
        self.state = Utf8State::Boundary;
        self.begun.clear();
        write!(self.out, "{}", char::REPLACEMENT_CHARACTER)
    }

    fn write_integer(&mut self, byte: u8) -> io::Result<()> {
        let separator = if self.started { " " } else { "" };
        self.started = true;
        write!(self.out, "{separator}{byte}")
    }
}

impl ByteStream<Vec<u8>> {
    /// Takes the bytes written to memory so far. An incomplete character is kept.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

fn special_id(id: u32) -> Error {
    Error::input(format!(
        "id {id} is not a byte: expected 0 to {}; skip special ids, or allow only bytes to be generated",
        BYTE_IDS - 1
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::ids_from_bytes;

    fn written(format: Format, ids: &[u32]) -> Vec<u8> {
        let mut stream = ByteStream::new(Vec::new(), format, SpecialIds::Skip);
        stream.write_ids(ids).unwrap();
        stream.finish().unwrap()
    }

    /// Bytes that are mostly parts of characters: whole ones, cut ones, and noise.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
            (any::<char>(), 1usize..4).prop_map(|(character, bytes)| {
                let mut begun = character.to_string().into_bytes();
                begun.truncate(bytes);
                begun
            }),
            prop::collection::vec(any::<u8>(), 0..4),
            prop::collection::vec(
                prop::sample::select(&b"a\x80\x9f\xa0\xbf\xc1\xc2\xe0\xed\xf0\xf4\xf5"[..]),
                0..6
            ),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn text_is_the_lossy_decoding_of_every_beginning(bytes in nearly_text()) {
            for end in 0..=bytes.len() {
                let expected = String::from_utf8_lossy(&bytes[..end]);
                prop_assert_eq!(written(Format::Utf8, &ids_from_bytes(&bytes[..end])), expected.as_bytes());
            }
        }

        /// The output is always valid, and only an incomplete character is held back.
        #[test]
        fn text_is_written_as_soon_as_it_is_known(bytes in nearly_text()) {
            let mut stream = ByteStream::new(Vec::new(), Format::Utf8, SpecialIds::Skip);
            for (index, &byte) in bytes.iter().enumerate() {
                stream.write_id(u32::from(byte))?;
                let so_far = &bytes[..=index];
                let end = so_far.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
                let is_incomplete = std::str::from_utf8(end).is_err_and(|error| error.error_len().is_none());
                let held = if is_incomplete { end.len() } else { 0 };
                let expected = String::from_utf8_lossy(&so_far[..so_far.len() - held]);
                prop_assert_eq!(&stream.out, expected.as_bytes());
            }
        }

        #[test]
        fn raw_bytes_and_integers(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let ids = ids_from_bytes(&bytes);
            prop_assert_eq!(&written(Format::Raw, &ids), &bytes);
            let numbers: Vec<String> = ids.iter().map(u32::to_string).collect();
            prop_assert_eq!(written(Format::Integers, &ids), numbers.join(" ").into_bytes());
        }
    }

    #[test]
    fn special_ids_are_skipped_even_within_a_character() {
        let ids = [0xE2, 256, 0x9C, u32::MAX, 0x93];
        assert_eq!(written(Format::Utf8, &ids), "✓".as_bytes());
        assert_eq!(written(Format::Raw, &ids), "✓".as_bytes());
        assert_eq!(written(Format::Integers, &ids), b"226 156 147");
    }

    #[test]
    fn special_ids_are_an_error_when_asked() {
        for format in [Format::Raw, Format::Utf8, Format::Integers] {
            let mut stream = ByteStream::new(Vec::new(), format, SpecialIds::Error);
            stream.write_id(255).unwrap();
            let error = stream.write_id(256).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("id 256 is not a byte"), "{error}");
            stream.write_id(65).unwrap();
        }
    }

    #[test]
    fn errors_of_the_writer_come_through() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for format in [Format::Raw, Format::Utf8, Format::Integers] {
            let mut stream = ByteStream::new(Closed, format, SpecialIds::Skip);
            assert_eq!(stream.write_id(65).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
