//! Compressed files and JSON Lines as plain bytes: decoded once, at opening, into a temporary file without a name, which
//! the system removes when the data set is dropped, even if the process is killed. Memory stays constant.
//!
//! `.gz` holds any number of gzip members, `.zst` any number of zstd frames. A line of a `.jsonl` file (compressed or not)
//! is an object whose text field counts; each text is followed by one line feed. Blank lines are skipped.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::dataset::{OnOpening, Opening};
use super::json_line::text_of;
use crate::{Error, Result};

/// No line of JSON may be longer: it is held in memory.
const LONGEST_LINE: u64 = 64 << 20;
/// Bytes read between two reports of progress.
const REPORT_EVERY: u64 = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// How the bytes of a file are coded, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format<'a> {
    compression: Compression,
    text_field: Option<&'a str>,
}

impl<'a> Format<'a> {
    /// The format of a file; `None` for one that is read as it is. Without a text field JSON Lines are bytes like any
    /// other, and so are compressed files unless `decompress` is set.
    pub(super) fn of(path: &Path, text_field: Option<&'a str>, decompress: bool) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let (stem, compression) = match name.rsplit_once('.') {
            Some((stem, "gz")) if decompress => (stem, Compression::Gzip),
            Some((stem, "zst")) if decompress => (stem, Compression::Zstd),
            _ => (name.as_str(), Compression::None),
        };
        let text_field = text_field.filter(|_| stem.ends_with(".jsonl"));
        (compression != Compression::None || text_field.is_some()).then_some(Self {
            compression,
            text_field,
        })
    }
}

/// Where decoded files go, one after the other.
pub(super) struct Decoded {
    sink: Sink,
    progress: Progress,
}

impl Decoded {
    /// An empty temporary file; `total` bytes are going to be read.
    pub(super) fn new(total: u64, on_opening: Option<OnOpening>) -> Result<Self> {
        let file = tempfile::tempfile().map_err(temporary)?;
        Ok(Self {
            sink: Sink {
                out: BufWriter::with_capacity(1 << 20, file),
                len: 0,
            },
            progress: Progress {
                done: 0,
                reported: 0,
                total,
                on_opening,
            },
        })
    }

    /// Bytes decoded so far.
    pub(super) fn len(&self) -> u64 {
        self.sink.len
    }

    /// Decodes a file to the end of the temporary one.
    pub(super) fn append(&mut self, path: &Path, file: File, format: Format) -> Result<()> {
        self.progress.report(path);
        let counted = Counted {
            file,
            path,
            progress: &mut self.progress,
        };
        let raw = BufReader::with_capacity(1 << 17, counted);
        let plain: Box<dyn Read + '_> = match format.compression {
            Compression::None => Box::new(raw),
            compressed => decoder(compressed, raw, path)?,
        };
        let mut plain = BufReader::with_capacity(1 << 17, plain);
        let reading = |error| damaged(path, format, &error);
        match format.text_field {
            None => copy(&mut plain, &mut self.sink, reading)?,
            Some(field) => copy_texts(&mut plain, &mut self.sink, path, field, reading)?,
        }
        drop(plain);
        self.progress.report(path);
        Ok(())
    }

    /// The temporary file.
    pub(super) fn finish(self) -> Result<File> {
        self.sink
            .out
            .into_inner()
            .map_err(|error| temporary(error.into_error()))
    }
}

/// What a compressed file holds.
#[cfg(feature = "compression")]
fn decoder<'a>(compression: Compression, raw: impl BufRead + 'a, path: &Path) -> Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(raw),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(raw).map_err(|error| Error::file(path, error))?),
    })
}

/// Says that this build reads no compressed files.
#[cfg(not(feature = "compression"))]
fn decoder<'a>(compression: Compression, _: impl BufRead + 'a, path: &Path) -> Result<Box<dyn Read + 'a>> {
    let tool = match compression {
        Compression::Zstd => "unzstd",
        Compression::None | Compression::Gzip => "gunzip",
    };
    let message = format!(
        "compressed, and this build reads plain files alone: run {tool}, or build with the feature `compression`"
    );
    Err(Error::file(path, message))
}

struct Sink {
    out: BufWriter<File>,
    len: u64,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(temporary)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn copy(input: &mut dyn BufRead, sink: &mut Sink, reading: impl Fn(std::io::Error) -> Error) -> Result<()> {
    loop {
        let bytes = input.fill_buf().map_err(&reading)?;
        let count = bytes.len();
        if count == 0 {
            return Ok(());
        }
        sink.write(bytes)?;
        input.consume(count);
    }
}

fn copy_texts(
    input: &mut dyn BufRead,
    sink: &mut Sink,
    path: &Path,
    field: &str,
    reading: impl Fn(std::io::Error) -> Error,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let mut limited = (&mut *input).take(LONGEST_LINE + 1);
        if limited.read_until(b'\n', &mut line).map_err(&reading)? == 0 {
            break;
        }
        if line.len() as u64 > LONGEST_LINE {
            let message = format!("line {number} is longer than {LONGEST_LINE} bytes; expected one JSON object a line");
            return Err(Error::file(path, message));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let text = text_of(&line, field).map_err(|message| Error::file(path, format!("line {number}: {message}")))?;
        sink.write(text.as_bytes())?;
        sink.write(b"\n")?;
    }
    Ok(())
}

struct Progress {
    done: u64,
    reported: u64,
    total: u64,
    on_opening: Option<OnOpening>,
}

impl Progress {
    fn report(&mut self, path: &Path) {
        self.reported = self.done;
        if let Some(on_opening) = &self.on_opening {
            on_opening(Opening {
                path,
                done: self.done,
                total: self.total,
            });
        }
    }
}

/// A file that counts what is read from it.
struct Counted<'a> {
    file: File,
    path: &'a Path,
    progress: &'a mut Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.progress.done += count as u64;
        if self.progress.done - self.progress.reported >= REPORT_EVERY {
            self.progress.report(self.path);
        }
        Ok(count)
    }
}

fn damaged(path: &Path, format: Format, error: &std::io::Error) -> Error {
    let what = match format.compression {
        Compression::None => return Error::file(path, error),
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    };
    Error::file(
        path,
        format!("expected whole {what} data, as the name says, found it damaged, cut off or foreign: {error}"),
    )
}

fn temporary(error: std::io::Error) -> Error {
    Error::file(
        std::env::temp_dir(),
        format!("cannot keep the decoded data in a temporary file: {error}; set TMPDIR to a folder with room for it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        let of = |name: &str, field| Format::of(Path::new(name), field, true).map(|f| (f.compression, f.text_field));
        assert_eq!(of("a.txt", Some("text")), None);
        assert_eq!(of("a.jsonl", None), None);
        assert_eq!(of("a.jsonl", Some("text")), Some((Compression::None, Some("text"))));
        assert_eq!(of("a.jsonl.GZ", Some("text")), Some((Compression::Gzip, Some("text"))));
        assert_eq!(of("a.txt.zst", Some("text")), Some((Compression::Zstd, None)));
        assert_eq!(of("gz", None), None);
        assert_eq!(Format::of(Path::new("a.gz"), None, false), None);
    }
}
