//! Many files as one sequence of bytes, in the order given. Only the requested part is read.
//!
//! Plain files are read in place. At most one is open at a time, so their number is not limited. A
//! read finds its file by binary search over the offsets. Files are read rather than mapped: memory
//! and time are the same, and a file that is truncated during a run gives an error, not a crash.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mblm_formats::compressed::HEAD;

use super::dataset::OnOpening;
use super::decode::{Decoded, Format};
use super::reading::Reading;
use super::source::{ByteSource, out_of_range};
use crate::{Error, Result};

/// A concatenation of files.
pub struct Files {
    parts: Vec<Part>,
    len: u64,
    open: Mutex<Option<(usize, File)>>,
    decoded: Option<Mutex<File>>,
}

/// One non-empty file.
struct Part {
    path: PathBuf,
    /// Offset of its first byte in the concatenation.
    start: u64,
    len: u64,
    /// Its offset in the temporary file, if it was decoded.
    decoded: Option<u64>,
}

impl Files {
    /// Opens each file once to learn its length and decodes it if needed. Empty files are skipped
    /// with a warning.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, or no bytes at all.
    pub fn open(paths: &[PathBuf], reading: &Reading, on_opening: Option<OnOpening>) -> Result<Self> {
        let mut coded: u64 = 0;
        let mut opened = Vec::with_capacity(paths.len());
        for path in paths {
            let (mut file, len) = open_file(path)?;
            let head = head(&mut file).map_err(|error| Error::file(path, error))?;
            let format = Format::of(path, &head, reading)?;
            coded = coded.saturating_add(if format.is_some() { len } else { 0 });
            opened.push((path, len, format));
        }
        let mut decoded = match opened.iter().any(|(_, _, format)| format.is_some()) {
            true => Some(Decoded::new(coded, on_opening)?),
            false => None,
        };
        let mut parts = Vec::with_capacity(paths.len());
        let mut start: u64 = 0;
        for (path, mut len, format) in opened {
            let mut at = None;
            if let (Some(format), Some(decoded), true) = (format, &mut decoded, len > 0) {
                let before = decoded.len();
                decoded.append(path, open_file(path)?.0, format)?;
                at = Some(before);
                len = decoded.len() - before;
            }
            if len == 0 {
                tracing::warn!("{}: empty, skipped", path.display());
                continue;
            }
            parts.push(Part {
                path: path.clone(),
                start,
                len,
                decoded: at,
            });
            start = start
                .checked_add(len)
                .ok_or_else(|| Error::file(path, "with this file the data exceeds 2^64 bytes"))?;
        }
        if let Some(decoded) = &decoded {
            tracing::info!(
                "decoded {coded} bytes on disk to {} bytes in a temporary file",
                decoded.len()
            );
        }
        let decoded = decoded.map(Decoded::finish).transpose()?.map(Mutex::new);
        let no_text = "no line has a text in the field text_field; expected at least one";
        match paths {
            [path] if parts.is_empty() && path.metadata().is_ok_and(|metadata| metadata.len() > 0) => Err(Error::file(
                path,
                match reading.text_field {
                    Some(_) => no_text,
                    None => "the compressed file has no content; expected data in it",
                },
            )),
            [path] if parts.is_empty() => Err(Error::file(path, "the file is empty; expected data in it")),
            [path, ..] if parts.is_empty() => Err(Error::file(
                path.parent().unwrap_or(path),
                format!("all {} files are empty; expected data in them", paths.len()),
            )),
            [] => Err(Error::input("no files were given; expected at least one")),
            _ => Ok(Self {
                parts,
                len: start,
                open: Mutex::new(None),
                decoded,
            }),
        }
    }

    /// Returns the number of non-empty files.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Returns the index of the part that contains byte `offset`, which is below the length.
    fn index_of(&self, offset: u64) -> usize {
        self.parts
            .partition_point(|part| part.start <= offset)
            .saturating_sub(1)
    }

    /// Fills `buffer` from byte `within` of one part.
    fn read_part(&self, index: usize, within: u64, buffer: &mut [u8]) -> Result<()> {
        let part = &self.parts[index];
        let count = buffer.len();
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::file(
                &part.path,
                format!(
                    "expected {count} bytes at offset {within}, found the end of the file: it had {} bytes when the \
                     data set was opened; do not change data while it is in use",
                    part.len
                ),
            ),
            _ => Error::file(&part.path, error),
        };
        if let (Some(start), Some(file)) = (part.decoded, &self.decoded) {
            // a poisoned lock is safe to use: every read seeks first
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            return read_at(&mut file, start + within, buffer).map_err(failed);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match open.take() {
            Some((current, file)) if current == index => file,
            _ => open_file(&part.path)?.0,
        };
        let (_, file) = open.insert((index, file));
        read_at(file, within, buffer).map_err(failed)
    }
}

impl ByteSource for Files {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(out_of_range(offset, buffer.len(), self.len));
        }
        let mut index = self.index_of(offset);
        let mut within = offset - self.parts[index].start;
        let mut rest = buffer;
        while !rest.is_empty() {
            let available = self.parts[index].len - within;
            let count = usize::try_from(available).map_or(rest.len(), |available| available.min(rest.len()));
            let (now, later) = rest.split_at_mut(count);
            self.read_part(index, within, now)?;
            (index, within, rest) = (index + 1, 0, later);
        }
        Ok(())
    }

    fn starts(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.start).collect()
    }

    fn locate(&self, offset: u64) -> (PathBuf, u64) {
        let part = &self.parts[self.index_of(offset)];
        (part.path.clone(), offset - part.start)
    }
}

/// Returns the first bytes of a file.
fn head(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn open_file(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).map_err(|error| Error::file(path, error))?;
    let metadata = file.metadata().map_err(|error| Error::file(path, error))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "expected a regular file"));
    }
    Ok((file, metadata.len()))
}

fn read_at(file: &mut File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

#[cfg(test)]
mod tests {
    use super::super::reading::BadLines;
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write;
    use std::sync::Arc;

    const DECODING: Reading = Reading {
        decompress: true,
        text_field: None,
        bad_lines: BadLines::Refuse,
    };

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        // the default of the command-line tool
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn whole(files: &Files) -> Vec<u8> {
        let mut bytes = vec![0; files.len() as usize];
        files.read(0, &mut bytes).unwrap();
        bytes
    }

    fn failure(result: Result<Files>) -> String {
        result.err().expect("opening should fail").to_string()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_any_part_of_the_concatenation(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..8), cut in any::<(u16, u16)>()
        ) {
            let all = contents.concat();
            prop_assume!(!all.is_empty());
            let folder = Folder::new();
            let paths: Vec<_> = contents
                .iter()
                .enumerate()
                .map(|(index, bytes)| match index % 3 {
                    0 => folder.write(&format!("{index}"), bytes),
                    1 => folder.write(&format!("{index}.gz"), &gzip(bytes)),
                    _ => folder.write(&format!("{index}.zst"), &zstd(bytes)),
                })
                .collect();
            let files = Files::open(&paths, &DECODING, None).unwrap();
            prop_assert_eq!(files.len(), all.len() as u64);
            let start = cut.0 as usize % all.len();
            let end = start + cut.1 as usize % (all.len() - start + 1);
            let mut found = vec![0; end - start];
            files.read(start as u64, &mut found).unwrap();
            prop_assert_eq!(&found, &all[start..end]);
            let (path, offset) = files.locate(start as u64);
            let index = paths.iter().position(|p| *p == path).unwrap();
            prop_assert_eq!(contents[index][offset as usize], all[start]);
        }
    }

    #[test]
    fn thousands_of_files_do_not_exhaust_the_limit_of_open_files() {
        let folder = Folder::new();
        let paths: Vec<_> = (0..3000u32)
            .map(|index| folder.write(&index.to_string(), &index.to_le_bytes()))
            .collect();
        let files = Files::open(&paths, &Reading::default(), None).unwrap();
        assert_eq!(files.count(), 3000);
        assert_eq!(whole(&files)[4 * 1234..4 * 1235], 1234u32.to_le_bytes());
    }

    #[test]
    fn members_and_frames_are_decoded_one_after_the_other() {
        let folder = Folder::new();
        let paths = [
            folder.write("a.gz", &[gzip(b"one "), gzip(b"two ")].concat()),
            folder.write("b.zst", &[zstd(b"three "), zstd(b"four ")].concat()),
            folder.write("c", b"five"),
        ];
        let files = Files::open(&paths, &DECODING, None).unwrap();
        assert_eq!(whole(&files), b"one two three four five");
        let raw = Files::open(&paths[..1], &Reading::default(), None).unwrap();
        assert_eq!(whole(&raw), std::fs::read(&paths[0]).unwrap());
    }

    #[test]
    fn json_lines_give_their_texts() {
        let folder = Folder::new();
        let lines = b"{\"text\": \"one\\ntwo\", \"id\": 1}\n\n{\"text\": \"three\"}";
        let paths = [
            folder.write("a.jsonl", lines),
            folder.write("b.jsonl.gz", &gzip(lines)),
            folder.write("c.ndjson", b"\xef\xbb\xbf{\"text\": \"four\", \"score\": NaN}\r\n"),
            folder.write("d.json", b" {\"text\": \"five\"}"),
            folder.write("e", &zstd(lines)),
        ];
        let reading = Reading {
            decompress: true,
            text_field: Some("text".into()),
            ..Reading::default()
        };
        let files = Files::open(&paths, &reading, None).unwrap();
        assert_eq!(
            whole(&files),
            [
                &b"one\ntwo\nthree\n"[..],
                b"one\ntwo\nthree\n",
                b"four\n",
                b"five\n",
                b"one\ntwo\nthree\n"
            ]
            .concat()
        );
        assert_eq!(whole(&Files::open(&paths[..1], &DECODING, None).unwrap()), lines);
        for (content, part) in [
            (&b"four"[..], "found `four`"),
            (b"[{\"text\": \"a\"}]", "jq -c '.[]'"),
            (b"\xff\xfe{\0", "iconv -f UTF-16"),
        ] {
            let message = failure(Files::open(&[folder.write("notes.jsonl", content)], &reading, None));
            assert!(message.contains(part), "{message}");
        }
        let mut tar = vec![b'a'; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        let message = failure(Files::open(&[folder.write("a.tgz", &gzip(&tar))], &DECODING, None));
        assert!(
            message.contains("a.tgz: compressed, and its content is a tar archive"),
            "{message}"
        );
        let some = folder.write(
            "some.jsonl",
            b"{\"text\": \"a\"}\n{\"body\": 1}\nnothing\n{\"text\": \"b\"}\n",
        );
        let skipping = Reading {
            bad_lines: BadLines::Skip,
            ..reading.clone()
        };
        assert_eq!(whole(&Files::open(&[some], &skipping, None).unwrap()), b"a\nb\n");
        let bad = folder.write("d.jsonl", b"{\"text\": \"\"}\n{\"body\": \"\"}\n");
        let message = failure(Files::open(&[bad], &reading, None));
        assert!(
            message.contains("d.jsonl: line 2: no field `text`, found `body`"),
            "{message}"
        );
    }

    #[test]
    fn damaged_cut_and_foreign_data_are_errors() {
        let folder = Folder::new();
        let text: Vec<u8> = (0..100_000u32).flat_map(|x| x.wrapping_mul(x).to_le_bytes()).collect();
        for (name, whole) in [("a.gz", gzip(&text)), ("a.zst", zstd(&text))] {
            let half = whole[..whole.len() / 2].to_vec();
            for (bytes, part) in [
                (half, "damaged or truncated"),
                (b"some plain text".to_vec(), "damaged or other data"),
            ] {
                let path = folder.write(name, &bytes);
                let message = failure(Files::open(&[path], &DECODING, None));
                assert!(message.contains(part), "{message}");
            }
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 0x10;
            let path = folder.write(name, &flipped);
            let message = failure(Files::open(&[path], &DECODING, None));
            assert!(message.contains("damaged or truncated"), "{message}");
        }
    }

    #[test]
    fn progress_reaches_the_total() {
        let folder = Folder::new();
        let path = folder.write("a.gz", &gzip(&vec![7; 1_000_000]));
        let size = path.metadata().unwrap().len();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let on_opening: OnOpening = Arc::new(move |opening| log.lock().unwrap().push((opening.done, opening.total)));
        Files::open(&[path], &DECODING, Some(on_opening)).unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0], seen[seen.len() - 1]), ((0, size), (size, size)));
    }

    #[test]
    fn empty_files_are_skipped_and_nothing_else_is_an_error() {
        let folder = Folder::new();
        let paths = [
            folder.write("a", b""),
            folder.write("b", b"text"),
            folder.write("c.gz", b""),
        ];
        let files = Files::open(&paths, &DECODING, None).unwrap();
        assert_eq!((files.count(), whole(&files)), (1, b"text".to_vec()));
        assert!(failure(Files::open(&paths[..1], &DECODING, None)).contains("a: the file is empty"));
        let both = [paths[0].clone(), paths[2].clone()];
        assert!(failure(Files::open(&both, &DECODING, None)).contains("all 2 files are empty"));
        assert!(failure(Files::open(&[], &DECODING, None)).contains("no files"));
    }

    #[test]
    fn missing_unreadable_and_shrunk_files_are_errors() {
        let folder = Folder::new();
        let missing = folder.0.path().join("missing");
        assert!(failure(Files::open(&[missing], &DECODING, None)).contains("missing: "));
        let message = failure(Files::open(&[folder.0.path().to_path_buf()], &DECODING, None));
        assert!(message.contains("expected a regular file"), "{message}");

        let path = folder.write("a", b"0123456789");
        let files = Files::open(std::slice::from_ref(&path), &DECODING, None).unwrap();
        std::fs::write(&path, b"0123").unwrap();
        let mut buffer = [0; 4];
        files.read(0, &mut buffer).unwrap();
        let message = files.read(3, &mut buffer).unwrap_err().to_string();
        assert!(message.contains("expected 4 bytes at offset 3"), "{message}");
        assert!(message.contains("had 10 bytes"), "{message}");
        let message = files.read(8, &mut buffer).unwrap_err().to_string();
        assert_eq!(message, "cannot read 4 bytes at offset 8: the data has 10 bytes");
    }
}
