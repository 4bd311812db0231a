//! Decodes compressed files and JSON Lines to plain bytes: once, at opening, into an unnamed
//! temporary file. The system removes that file when the data set is dropped or the process is
//! killed. Memory use is constant.
//!
//! gzip and zstd are recognized by a file's first bytes or its name: any number of gzip members or
//! zstd frames, with windows of up to 2 GiB. Trailing zeros or foreign bytes are ignored, as
//! `gzip -d` does. Other containers are refused with the command that unpacks them.
//!
//! With a text field every file is JSON Lines, compressed or not: each line is an object with that
//! field, and one line feed follows each text. Blank lines are skipped, and so are byte order marks
//! at the start of lines (also of joined files). Any other file, such as a README beside the data,
//! is an error, so that nothing is trained on by mistake.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Cursor, Read, Write};
use std::path::Path;

use mblm_formats::compressed::{Compression, HEAD};
use mblm_formats::json_line::text_of;

use super::dataset::{OnOpening, Opening};
use super::reading::{BadLines, Reading};
use crate::{Error, Result};

/// The advice of errors: how to read any file without decoding.
const RAW: &str = "or read its bytes unchanged: `raw: true` in io.dataset_args of data set `bytes` (`--set \
     io.dataset_args.raw=true`)";
/// The longest accepted line of JSON, in bytes: a line is held in memory.
const LONGEST_LINE: u64 = 64 << 20;
/// The mark that editors on Windows put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes read between two reports of progress.
const REPORT_EVERY: u64 = 8 << 20;

/// How the bytes of a file are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format<'a> {
    compression: Option<Compression>,
    text_field: Option<&'a str>,
    bad_lines: BadLines,
}

impl<'a> Format<'a> {
    /// Returns the format of a file that begins with `head`; `None` for a file that is not decoded.
    /// Without a text field JSON Lines are plain bytes; without `decompress` every other file is.
    ///
    /// # Errors
    /// A container that cannot be read as one sequence of bytes.
    pub(super) fn of(path: &Path, head: &[u8], reading: &'a Reading) -> Result<Option<Self>> {
        let text_field = reading.text_field.as_deref();
        let compression = match reading.decompress {
            true => Compression::of(path, head).map_err(|message| Error::file(path, format!("{message}, {RAW}")))?,
            false => None,
        };
        Ok((compression.is_some() || text_field.is_some()).then_some(Self {
            compression,
            text_field,
            bad_lines: reading.bad_lines,
        }))
    }
}

/// The temporary file of decoded bytes, one source file after the other.
pub(super) struct Decoded {
    sink: Sink,
    progress: Progress,
}

impl Decoded {
    /// Creates an empty temporary file; `total` is the number of bytes that will be read.
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

    /// Returns the number of bytes decoded so far.
    pub(super) fn len(&self) -> u64 {
        self.sink.len
    }

    /// Decodes a file onto the end of the temporary file.
    pub(super) fn append(&mut self, path: &Path, file: File, format: Format) -> Result<()> {
        self.progress.report(path);
        let counted = Counted {
            file,
            path,
            progress: &mut self.progress,
        };
        let raw = BufReader::with_capacity(1 << 17, counted);
        let plain: Box<dyn Read + '_> = match format.compression {
            None => Box::new(raw),
            Some(compression) => decoder(compression, raw, path)?,
        };
        let mut plain = BufReader::with_capacity(1 << 17, plain);
        let reading = |error| damaged(path, format, &error);
        let mut head = Vec::with_capacity(HEAD);
        (&mut plain).take(HEAD as u64).read_to_end(&mut head).map_err(reading)?;
        if format.compression.is_some() {
            Compression::refuse_nested(&head)
                .map_err(|message| Error::file(path, format!("compressed, and its content is {message}")))?;
        }
        let mut plain = Cursor::new(&head).chain(plain);
        match format.text_field {
            None => copy(&mut plain, &mut self.sink, reading)?,
            Some(field) => {
                let lines = Lines {
                    path,
                    field,
                    bad: format.bad_lines,
                };
                lines.check_beginning(&head)?;
                lines.copy(&mut plain, &mut self.sink, reading)?;
            }
        }
        drop(plain);
        self.progress.report(path);
        Ok(())
    }

    /// Returns the temporary file.
    pub(super) fn finish(self) -> Result<File> {
        self.sink
            .out
            .into_inner()
            .map_err(|error| temporary(error.into_error()))
    }
}

/// Opens the decompressed content of a file.
#[cfg(feature = "compression")]
fn decoder<'a>(compression: Compression, raw: impl BufRead + 'a, path: &'a Path) -> Result<Box<dyn Read + 'a>> {
    Ok(Box::new(mblm_formats::compressed::Frames::new(compression, raw, path)))
}

/// Fails: this build reads no compressed files.
#[cfg(not(feature = "compression"))]
fn decoder<'a>(compression: Compression, _: impl BufRead + 'a, path: &Path) -> Result<Box<dyn Read + 'a>> {
    let tool = match compression {
        Compression::Zstd => "unzstd",
        Compression::Gzip => "gunzip",
    };
    let message = format!(
        "compressed, but this build reads only plain files: run {tool}, or build with the feature `compression`"
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

/// The lines of a JSON Lines file.
struct Lines<'a> {
    path: &'a Path,
    field: &'a str,
    bad: BadLines,
}

impl Lines<'_> {
    fn copy(&self, input: &mut dyn BufRead, sink: &mut Sink, reading: impl Fn(std::io::Error) -> Error) -> Result<()> {
        let (mut line, mut first_bad, mut bad) = (Vec::new(), None, 0u64);
        for number in 1u64.. {
            line.clear();
            let mut limited = (&mut *input).take(LONGEST_LINE + 1);
            if limited.read_until(b'\n', &mut line).map_err(&reading)? == 0 {
                break;
            }
            if line.len() as u64 > LONGEST_LINE {
                let message =
                    format!("line {number} is longer than {LONGEST_LINE} bytes; expected one JSON object per line");
                return Err(Error::file(self.path, message));
            }
            let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match (text_of(line, self.field), self.bad) {
                (Ok(text), _) => {
                    sink.write(text.as_bytes())?;
                    sink.write(b"\n")?;
                }
                (Err(message), BadLines::Refuse) => {
                    let message = format!("line {number}: {message}; `skip_bad_lines: true` skips such lines");
                    return Err(Error::file(self.path, message));
                }
                (Err(message), BadLines::Skip) => {
                    bad += 1;
                    first_bad.get_or_insert((number, message));
                }
            }
        }
        if let Some((number, message)) = first_bad {
            tracing::warn!(
                "{}: {bad} lines skipped, the first is line {number}: {message}",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Fails for a file that is not JSON Lines; if bad lines are skipped, only for another
    /// encoding.
    fn check_beginning(&self, head: &[u8]) -> Result<()> {
        let (path, field) = (self.path, self.field);
        if let Some(encoding) = wide_encoding(head) {
            let message = format!(
                "expected JSON Lines in UTF-8, found {encoding} (by its first bytes): `iconv -f {encoding} -t UTF-8 FILE > NEW` \
                 converts it"
            );
            return Err(Error::file(path, message));
        }
        if self.bad == BadLines::Skip {
            return Ok(());
        }
        let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
        let text = head.trim_ascii_start();
        let number = 1 + head[..head.len() - text.len()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let found = match text.first() {
            None | Some(b'{') => return Ok(()),
            Some(b'[') => "a JSON array: `jq -c '.[]' FILE > NEW.jsonl` writes one object per line".to_string(),
            Some(_) => format!("`{}`", text[..text.len().min(16)].escape_ascii()),
        };
        Err(Error::file(
            path,
            format!(
                "line {number}: text_field is `{field}`, so JSON Lines are expected, one object per line; found \
                 {found}; remove other files from the data set, or remove text_field to read all bytes; \
                 `skip_bad_lines: true` skips such lines"
            ),
        ))
    }
}

/// Returns the encoding of a text that begins like UTF-16 or UTF-32: with a mark or a JSON bracket.
fn wide_encoding(head: &[u8]) -> Option<&'static str> {
    Some(match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => "UTF-32",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16",
        [b'{' | b'[', 0, 0, 0, ..] => "UTF-32LE",
        [0, 0, 0, b'{' | b'[', ..] => "UTF-32BE",
        [b'{' | b'[', 0, ..] => "UTF-16LE",
        [0, b'{' | b'[', ..] => "UTF-16BE",
        _ => return None,
    })
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

/// A file that counts the bytes read from it.
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
    let Some(compression) = format.compression else {
        return Error::file(path, error);
    };
    let said = error.to_string();
    // zstd reports errors by message alone, without kinds
    let message = if said.contains("Dictionary") {
        format!(
            "compressed with a zstd dictionary, which the file does not include: `zstd -d -D DICTIONARY FILE` \
             decompresses it ({said})"
        )
    } else if said.contains("memory") {
        format!(
            "its {compression} data need more memory than is available: `zstd -d --long=31 FILE` decompresses it \
             ({said})"
        )
    } else {
        format!("expected complete {compression} data, found damaged or truncated data: {said}")
    };
    Error::file(path, message)
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
    fn a_file_as_it_is_has_no_format() {
        let plain = Reading {
            decompress: true,
            ..Reading::default()
        };
        assert_eq!(Format::of(Path::new("a.jsonl"), b"{}", &plain).unwrap(), None);
        let texts = Reading {
            text_field: Some("text".into()),
            ..plain
        };
        let format = Format::of(Path::new("a"), b"{}", &texts).unwrap().unwrap();
        assert_eq!((format.compression, format.text_field), (None, Some("text")));
        assert_eq!(
            Format::of(Path::new("a.gz"), b"\x1f\x8b\x08", &Reading::default()).unwrap(),
            None
        );
    }
}
