//! gzip members and zstd frames, one after the other, as one stream; what stands behind the last one is passed over.
//!
//! Padding with zeros is passed over in silence, as tapes and block devices add it, and foreign bytes with a warning, as `gzip -d` does.
//! Data that end within a member or frame are an error.

use std::io::{self, BufRead, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::container::Compression;

/// The largest window of a zstd frame, 2^31 bytes: what `zstd --long=31` writes.
const MAX_WINDOW: u32 = 31;

type Frame<R> = zstd::Decoder<'static, R>;

/// All that the members or frames of a file hold.
pub(super) struct Frames<'a, R: BufRead> {
    state: State<R>,
    path: &'a Path,
}

enum State<R: BufRead> {
    /// Before a member or frame of this compression, which the first of them need not look like.
    Between(R, Option<Compression>),
    Gzip(GzDecoder<R>),
    Zstd(Box<Frame<R>>),
    End,
}

impl<'a, R: BufRead> Frames<'a, R> {
    /// Reads `raw` as data of this compression.
    pub(super) fn new(compression: Compression, raw: R, path: &'a Path) -> Self {
        Self {
            state: State::Between(raw, Some(compression)),
            path,
        }
    }

    /// Begins the next member or frame, if there is one.
    fn begin(&self, mut raw: R, compression: Option<Compression>) -> io::Result<State<R>> {
        let next = match compression {
            Some(compression) => Some(compression),
            None => Compression::begins(raw.fill_buf()?),
        };
        match next {
            Some(Compression::Gzip) => Ok(State::Gzip(GzDecoder::new(raw))),
            Some(Compression::Zstd) => {
                let mut frame = zstd::Decoder::with_buffer(raw)?.single_frame();
                frame.window_log_max(MAX_WINDOW)?;
                Ok(State::Zstd(Box::new(frame)))
            }
            None => {
                if has_more_than_zeros(&mut raw)? {
                    tracing::warn!(
                        "{}: foreign bytes behind the compressed data, left out",
                        self.path.display()
                    );
                }
                Ok(State::End)
            }
        }
    }
}

impl<R: BufRead> Read for Frames<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match std::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(0),
                State::Between(raw, compression) => self.begin(raw, compression)?,
                State::Gzip(mut member) => match member.read(buffer)? {
                    0 => State::Between(member.into_inner(), None),
                    count => {
                        self.state = State::Gzip(member);
                        return Ok(count);
                    }
                },
                State::Zstd(mut frame) => match frame.read(buffer)? {
                    0 => State::Between(frame.finish(), None),
                    count => {
                        self.state = State::Zstd(frame);
                        return Ok(count);
                    }
                },
            }
        }
    }
}

/// Reads the rest; whether there is anything but zeros.
fn has_more_than_zeros(raw: &mut impl BufRead) -> io::Result<bool> {
    let mut more = false;
    loop {
        let bytes = raw.fill_buf()?;
        if bytes.is_empty() {
            return Ok(more);
        }
        more |= bytes.iter().any(|byte| *byte != 0);
        let count = bytes.len();
        raw.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).unwrap()
    }

    /// A frame that decoders skip.
    const SKIPPED: &[u8] = b"\x53\x2a\x4d\x18\x03\0\0\0abc";

    fn read(compression: Compression, raw: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // the smallest buffer: marks of members lie across its borders
        let raw = io::BufReader::with_capacity(16, raw);
        Frames::new(compression, raw, Path::new("a"))
            .read_to_end(&mut out)
            .map(|_| out)
    }

    #[test]
    fn members_frames_and_what_stands_behind_them() {
        let (a, b) = (gzip(b"one "), gzip(b"two"));
        let zeros = vec![0; 1000];
        for behind in [&[][..], &zeros, b"garbage"] {
            let found = read(Compression::Gzip, &[&a[..], &b, behind].concat()).unwrap();
            assert_eq!(found, b"one two");
        }
        let (a, b) = (zstd(b"one "), zstd(b"two"));
        for behind in [&[][..], &zeros, b"garbage", SKIPPED] {
            let found = read(Compression::Zstd, &[SKIPPED, &a, SKIPPED, &b, behind].concat()).unwrap();
            assert_eq!(found, b"one two");
        }
    }

    #[test]
    fn data_that_are_missing_are_damage() {
        for (compression, whole) in [
            (Compression::Gzip, gzip(b"some text")),
            (Compression::Zstd, zstd(b"some text")),
        ] {
            for cut in 1..whole.len() {
                assert!(read(compression, &whole[..cut]).is_err(), "{compression} {cut}");
            }
            let mut flipped = whole.clone();
            let last = flipped.len() - 6;
            flipped[last] ^= 0x55;
            let found = read(compression, &flipped);
            assert!(compression == Compression::Zstd || found.is_err(), "{found:?}");
        }
        assert!(read(Compression::Gzip, b"text").is_err());
    }

    #[test]
    fn a_window_of_2_gib_is_read() {
        // the header of a frame with a window of 2^31 bytes and no block but the last, empty one
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3];
        let raw_block = [0x01 | (4 << 3), 0, 0];
        let frame = [&header[..], &raw_block, b"text"].concat();
        assert_eq!(read(Compression::Zstd, &frame).unwrap(), b"text");
    }
}
