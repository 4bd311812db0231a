//! Prepared images on disk, in files of 256 images. Opening a data set makes the files in parallel;
//! they are reused while the images and their preparation stay the same.
//!
//! ```text
//! "MBLMIMG1" | key (32) | count (u32) | (bytes u32, CRC-32C u32) an image | CRC-32C of all that (u32) | images
//! ```
//!
//! Numbers are little-endian. The key is the SHA-256 of the preparation and of the name, size and
//! modification time of each image file, so a changed image invalidates its file. A file appears
//! whole (`checkpoint::atomic`). Every image is checked when it is read; if its checksum is wrong,
//! it is prepared again from its image file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crc32c::crc32c;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::listing::Listing;
use mblm::checkpoint::{atomic, hex};
use mblm::data::{OnOpening, Opening};
use mblm::{Error, Result};

const MAGIC: &[u8; 8] = b"MBLMIMG1";
/// Images per file: few enough for memory if they are large, and enough that files are few.
const SHARD: usize = 256;
/// The size of the header before the table, in bytes.
const HEAD: usize = MAGIC.len() + KEY + size_of::<u32>();
const KEY: usize = 32;
/// The size of an image's entry in the table, in bytes.
const ROW: usize = 2 * size_of::<u32>();

/// The treatment of images that cannot be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damaged {
    /// The first one is an error.
    Refused,
    /// They have no bytes: [`Cache::len`] is 0, [`Cache::get`] returns `None`.
    Empty,
}

/// Prepared images in files.
pub(crate) struct Cache {
    shards: Vec<Shard>,
}

/// One file, with its table read and checked.
struct Shard {
    path: PathBuf,
    /// Offset, length and checksum of each image.
    rows: Vec<(u64, u32, u32)>,
}

impl Cache {
    /// Opens the prepared images of a split and makes missing or invalid files; reports the
    /// progress to `on_opening`.
    ///
    /// # Errors
    /// An image that cannot be read, unless `damaged` allows it; a folder that cannot be written.
    pub(crate) fn open(
        folder: &Path,
        images: &Listing,
        damaged: Damaged,
        on_opening: Option<&OnOpening>,
    ) -> Result<Self> {
        atomic::make_folder(folder)?;
        let sources = Sources::look_at(images)?;
        let name = sources.name();
        let mut done = 0;
        let mut shards = Vec::new();
        for (number, first) in (0..images.names.len()).step_by(SHARD).enumerate() {
            let range = first..(first + SHARD).min(images.names.len());
            let path = folder.join(format!("prepared_{name}_{number:05}.images"));
            let key = sources.key(range.clone());
            done += sources.bytes(range.clone());
            let shard = match Shard::open(&path, &key, range.len()) {
                Some(shard) => shard,
                None => {
                    let shard = Shard::make(&path, &key, images, damaged, range)?;
                    if let Some(report) = on_opening {
                        let total = sources.bytes(0..images.names.len());
                        report(Opening {
                            path: &shard.path,
                            done,
                            total,
                        });
                    }
                    shard
                }
            };
            shards.push(shard);
        }
        Ok(Self { shards })
    }

    /// Returns a prepared image; `None` if it could not be prepared or, with a warning, if its file
    /// is damaged or gone.
    pub(crate) fn get(&self, image: usize) -> Option<Vec<u8>> {
        if self.len(image) == 0 {
            return None;
        }
        let shard = &self.shards[image / SHARD];
        let bytes = shard.read(image % SHARD);
        if bytes.is_none() {
            tracing::warn!(
                "{}: image {} in this file is damaged and is prepared again; remove the file to prepare all images \
                 again",
                shard.path.display(),
                image % SHARD
            );
        }
        bytes
    }

    /// Returns the length of a prepared image in bytes; 0 if it could not be prepared.
    pub(crate) fn len(&self, image: usize) -> usize {
        self.shards[image / SHARD].rows[image % SHARD].1 as usize
    }
}

impl Shard {
    /// Opens an existing file if it is complete and has this key.
    fn open(path: &Path, key: &[u8; KEY], count: usize) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let mut head = vec![0; HEAD + count * ROW];
        file.read_exact(&mut head).ok()?;
        let mut sum = [0; 4];
        file.read_exact(&mut sum).ok()?;
        let expected = [&MAGIC[..], key, &u32::try_from(count).ok()?.to_le_bytes()].concat();
        if crc32c(&head) != u32::from_le_bytes(sum) || !head.starts_with(&expected) {
            return None;
        }
        let mut offset = (head.len() + sum.len()) as u64;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        let rows = head[HEAD..].chunks_exact(ROW).map(|row| {
            let (len, sum) = row.split_at(ROW / 2);
            let start = offset;
            offset += u64::from(number(len));
            (start, number(len), number(sum))
        });
        let rows = rows.collect();
        (file.metadata().ok()?.len() == offset).then(|| Self {
            path: path.to_path_buf(),
            rows,
        })
    }

    /// Prepares images and writes them.
    fn make(path: &Path, key: &[u8; KEY], images: &Listing, damaged: Damaged, range: Range<usize>) -> Result<Self> {
        let count = range.len();
        let prepared: Vec<Result<Vec<u8>>> = range
            .into_par_iter()
            .map(|image| {
                let bytes = images.preparation.read(&images.path(image));
                match damaged {
                    Damaged::Refused => bytes,
                    Damaged::Empty => Ok(bytes.unwrap_or_default()),
                }
            })
            .collect();
        let prepared = prepared.into_iter().collect::<Result<Vec<_>>>()?;
        let too_large = || Error::file(path, "a prepared image of 4 GiB or more cannot be kept");
        let mut head = [&MAGIC[..], key].concat();
        head.extend((count as u32).to_le_bytes()); // at most SHARD
        for bytes in &prepared {
            head.extend(u32::try_from(bytes.len()).map_err(|_| too_large())?.to_le_bytes());
            head.extend(crc32c(bytes).to_le_bytes());
        }
        let sum = crc32c(&head);
        atomic::write(path, |out| {
            out.write_all(&head)?;
            out.write_all(&sum.to_le_bytes())?;
            prepared.iter().try_for_each(|bytes| out.write_all(bytes))
        })?;
        Self::open(path, key, count).ok_or_else(|| Error::file(path, "was written and cannot be read again"))
    }

    /// Returns the bytes of an image if they match its checksum.
    fn read(&self, index: usize) -> Option<Vec<u8>> {
        let (start, len, sum) = self.rows[index];
        let mut file = File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(start)).ok()?;
        let mut bytes = vec![0; len as usize];
        file.read_exact(&mut bytes).ok()?;
        (crc32c(&bytes) == sum).then_some(bytes)
    }
}

/// The inputs of prepared images.
struct Sources {
    /// The preparation and the folder.
    what: String,
    /// Name, size and modification time of each image.
    files: Vec<(Box<str>, u64, u128)>,
}

impl Sources {
    fn look_at(images: &Listing) -> Result<Self> {
        let folder = &images.folder;
        let folder = std::fs::canonicalize(folder).map_err(|error| Error::file(folder, error))?;
        let preparation = serde_json::to_string(&images.preparation)
            .map_err(|error| Error::config(format!("io.dataset_args: cannot be saved as text: {error}")))?;
        let files: Vec<Result<_>> = (0..images.names.len())
            .into_par_iter()
            .map(|image| {
                let path = images.path(image);
                let metadata = path.metadata().map_err(|error| Error::file(&path, error))?;
                let changed = metadata
                    .modified()
                    .ok()
                    .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let nanoseconds = changed.map_or(0, |time| time.as_nanos());
                Ok((images.names[image].clone(), metadata.len(), nanoseconds))
            })
            .collect();
        Ok(Self {
            what: format!("{preparation}\n{}", folder.display()),
            files: files.into_iter().collect::<Result<_>>()?,
        })
    }

    /// Returns the common prefix of the names of all files.
    fn name(&self) -> String {
        hex(&Sha256::digest(self.what.as_bytes())[..8])
    }

    fn key(&self, range: Range<usize>) -> [u8; KEY] {
        let mut hash = Sha256::new();
        hash.update(&self.what);
        for (name, size, changed) in &self.files[range] {
            hash.update(format!("\n{size} {changed} {name}"));
        }
        hash.finalize().into()
    }

    /// Returns the total size of image files in bytes.
    fn bytes(&self, range: Range<usize>) -> u64 {
        self.files[range].iter().map(|(_, size, _)| size).sum()
    }
}
