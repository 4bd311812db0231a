//! Consecutive gzip members or zstd frames as one stream; data after the last one is ignored.
//!
//! Zero padding, which tapes and block devices add, is ignored silently; foreign bytes are ignored
//! with a warning, as in `gzip -d`. Data that end within a member or frame are an error.

use std::io::{self, BufRead, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::Compression;

/// The largest window of a zstd frame, 2^31 bytes, as in `zstd --long=31`.
const MAX_WINDOW: u32 = 31;
/// The number of bytes that identify the start of a member or frame.
const MARK: usize = 4;

type Frame<R> = zstd::Decoder<'static, R>;

/// The decompressed content of all members or frames of a file.
pub struct Frames<'a, R: BufRead> {
    state: State<R>,
    path: &'a Path,
}

enum State<R: BufRead> {
    /// Before a member or frame of this compression. The first need not begin with its magic bytes.
    Between(Ahead<R>, Option<Compression>),
    Gzip(GzDecoder<Ahead<R>>),
    Zstd(Box<Frame<Ahead<R>>>),
    End,
}

/// A reader that can look ahead across the border of its buffer.
struct Ahead<R> {
    seen: Vec<u8>,
    /// The number of buffered bytes that have been read.
    read: usize,
    raw: R,
}

impl<R: BufRead> Ahead<R> {
    fn new(raw: R) -> Self {
        let seen = Vec::with_capacity(MARK);
        Self { seen, read: 0, raw }
    }

    /// Returns the next [`MARK`] bytes, or fewer at the end.
    fn peek(&mut self) -> io::Result<&[u8]> {
        self.seen.drain(..self.read);
        self.read = 0;
        let missing = MARK.saturating_sub(self.seen.len());
        (&mut self.raw).take(missing as u64).read_to_end(&mut self.seen)?;
        Ok(&self.seen)
    }
}

impl<R: BufRead> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut next = self.fill_buf()?;
        let count = next.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Ahead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &self.seen[self.read..] {
            [] => self.raw.fill_buf(),
            _ => Ok(&self.seen[self.read..]),
        }
    }

    fn consume(&mut self, count: usize) {
        match self.seen.len() - self.read {
            0 => self.raw.consume(count),
            _ => self.read += count,
        }
    }
}

impl<'a, R: BufRead> Frames<'a, R> {
    /// Reads `raw` as data of this compression.
    pub fn new(compression: Compression, raw: R, path: &'a Path) -> Self {
        Self {
            state: State::Between(Ahead::new(raw), Some(compression)),
            path,
        }
    }

    /// Begins the next member or frame, if there is one.
    fn begin(&self, mut raw: Ahead<R>, compression: Option<Compression>) -> io::Result<State<R>> {
        let next = match compression {
            Some(compression) => Some(compression),
            None => {
                let mark = raw.peek()?;
                if matches!(mark, [0x1f, 0x8b] | [0x28, 0xb5] | [0x28, 0xb5, 0x2f]) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Compression::begins(mark)
            }
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
                    tracing::warn!("{}: bytes after the compressed data are ignored", self.path.display());
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

/// Reads the rest; returns whether it contains a byte other than zero.
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
        // with the smallest buffer, magic bytes cross its borders
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
    fn a_member_may_begin_at_any_place_of_the_buffer() {
        for (compression, encode) in [
            (Compression::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Compression::Zstd, zstd),
        ] {
            for length in 1..40 {
                let text: Vec<u8> = (0..length).map(|at: u8| at.wrapping_mul(101)).collect();
                let raw = [encode(&text), encode(b"two"), encode(b" three")].concat();
                assert_eq!(read(compression, &raw).unwrap(), [&text[..], b"two three"].concat());
                let cut = [&encode(&text)[..], &encode(b"two")[..2]].concat();
                assert!(read(compression, &cut).is_err(), "the second one is cut off");
            }
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
        // the header of a frame with a window of 2^31 bytes, and only the last, empty block
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3];
        let raw_block = [0x01 | (4 << 3), 0, 0];
        let frame = [&header[..], &raw_block, b"text"].concat();
        assert_eq!(read(Compression::Zstd, &frame).unwrap(), b"text");
    }
}
