//! Files that grow row by row and never keep a partial row.
//!
//! Rows are [`pushed`](Appended::push) to memory and [`written`](Appended::write) to the end of the
//! file in one piece. If a write fails midway (a full disk), the file is cut back to its last whole
//! row, at once or before the next attempt; the rows stay in memory until they are written.
//! [`sync`](Appended::sync) flushes the file to the disk and returns its length; a resumed run
//! opens the file again and cuts it back to that length.
//!
//! A process killed during a write may leave a partial row. The caller that opens the file decides
//! how much of the row to keep.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::atomic::{fail_point, sync_folder};
use crate::{Error, Result};

/// The disk operations of an appended file; tests replace them by failing ones.
pub(crate) trait Storage: Send {
    /// Writes bytes from position `at` on. After an error any part of them may be written.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `length` bytes.
    fn cut(&mut self, length: u64) -> io::Result<()>;

    /// Waits until the file is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        fail_point()?;
        self.seek(SeekFrom::Start(at))?;
        self.write_all(bytes)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        fail_point()?;
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        fail_point()?;
        self.sync_all()
    }
}

/// A file with rows appended to it.
pub(crate) struct Appended {
    path: PathBuf,
    storage: Box<dyn Storage>,
    /// The length of the file's whole rows, in bytes.
    length: u64,
    /// Rows that are not yet in the file.
    pending: Vec<u8>,
    /// Whether the file may have bytes beyond `length`.
    torn: bool,
}

impl Appended {
    /// Opens or creates the file at `path` and cuts it back to the length that `keep` returns for
    /// its content.
    ///
    /// # Errors
    /// A file that cannot be opened, read or cut.
    pub(crate) fn open(path: &Path, keep: impl FnOnce(&[u8]) -> usize) -> Result<Self> {
        let open = || -> io::Result<(File, u64)> {
            fail_point()?;
            let new = !path.exists();
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            if let (true, Some(folder)) = (new, path.parent().filter(|folder| !folder.as_os_str().is_empty())) {
                sync_folder(folder)?;
            }
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            let kept = keep(&content).min(content.len());
            if kept < content.len() {
                file.cut(kept as u64)?;
            }
            Ok((file, kept as u64))
        };
        let (file, length) =
            open().map_err(|error| Error::file(path, format!("cannot open the file to append to it: {error}")))?;
        Ok(Self {
            path: path.to_path_buf(),
            storage: Box::new(file),
            length,
            pending: Vec::new(),
            torn: false,
        })
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the length of the written whole rows, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Adds whole rows in memory.
    pub(crate) fn push(&mut self, rows: &[u8]) {
        self.pending.extend_from_slice(rows);
    }

    /// Writes all rows that were pushed.
    ///
    /// # Errors
    /// A failing disk. No partial row stays in the file; the rows are kept for the next attempt.
    pub(crate) fn write(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.write_io().map_err(|error| {
            let kept = self.pending.len();
            let message = format!("cannot append to the file: {error}; {kept} bytes of rows are kept in memory");
            Error::file(&self.path, message)
        })
    }

    fn write_io(&mut self) -> io::Result<()> {
        if self.torn {
            self.storage.cut(self.length)?;
            self.torn = false;
        }
        if let Err(error) = self.storage.write_at(self.length, &self.pending) {
            self.torn = self.storage.cut(self.length).is_err();
            return Err(error);
        }
        self.length += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes all rows, waits until the file is on the disk, and returns its length.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn sync(&mut self) -> Result<u64> {
        self.write()?;
        self.storage
            .sync()
            .map_err(|error| Error::file(&self.path, format!("cannot flush the file to the disk: {error}")))?;
        Ok(self.length)
    }

    /// Replaces the storage by one that wraps it.
    #[cfg(test)]
    pub(crate) fn wrap(&mut self, wrap: impl FnOnce(Box<dyn Storage>) -> Box<dyn Storage>) {
        let nothing: Box<dyn Storage> = Box::new(test_storage::Nothing);
        self.storage = wrap(std::mem::replace(&mut self.storage, nothing));
    }
}

/// A disk with limited space, for the tests of all appended files.
#[cfg(test)]
pub(crate) mod test_storage {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::Storage;

    /// The state of the disk.
    #[derive(Clone)]
    pub(crate) struct Disk {
        /// Bytes that can still be written.
        pub(crate) room: Arc<AtomicU64>,
        /// Whether files can be cut and synced.
        pub(crate) healthy: Arc<AtomicBool>,
    }

    impl Disk {
        pub(crate) fn with_room(room: u64) -> Self {
            Self {
                room: Arc::new(AtomicU64::new(room)),
                healthy: Arc::new(AtomicBool::new(true)),
            }
        }

        pub(crate) fn under(&self, storage: Box<dyn Storage>) -> Box<dyn Storage> {
            Box::new(Limited {
                disk: self.clone(),
                storage,
            })
        }
    }

    struct Limited {
        disk: Disk,
        storage: Box<dyn Storage>,
    }

    impl Limited {
        fn healthy(&self) -> io::Result<()> {
            match self.disk.healthy.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(io::Error::other("the disk is broken")),
            }
        }
    }

    impl Storage for Limited {
        fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
            let room = self.disk.room.load(Ordering::Relaxed);
            let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.storage.write_at(at, &bytes[..fits])?;
            self.disk.room.store(room - fits as u64, Ordering::Relaxed);
            match fits == bytes.len() {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::StorageFull)),
            }
        }

        fn cut(&mut self, length: u64) -> io::Result<()> {
            self.healthy()?;
            self.storage.cut(length)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.healthy()?;
            self.storage.sync()
        }
    }

    /// A storage that always fails.
    pub(super) struct Nothing;

    impl Storage for Nothing {
        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::Error::other("there is no file"))
        }

        fn cut(&mut self, _: u64) -> io::Result<()> {
            Err(io::Error::other("there is no file"))
        }

        fn sync(&mut self) -> io::Result<()> {
            Err(io::Error::other("there is no file"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::test_storage::Disk;
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn opening_cuts_back_to_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let mut file = Appended::open(&path, |content| content.len()).unwrap();
        file.push(b"one\ntwo\n");
        assert_eq!(read(&path), "");
        assert_eq!(file.sync().unwrap(), 8);
        drop(file);
        let mut file = Appended::open(&path, |content| {
            assert_eq!(content, b"one\ntwo\n");
            4
        })
        .unwrap();
        assert_eq!((file.length(), read(&path).as_str()), (4, "one\n"));
        file.push(b"2\n");
        file.write().unwrap();
        assert_eq!(read(&path), "one\n2\n");
        let error = Appended::open(&path.join("deeper"), |_| 0).err().unwrap();
        assert!(error.to_string().contains("deeper: cannot open"), "{error}");
    }

    #[test]
    fn a_half_written_row_is_cut_off_at_once_or_before_the_next_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let mut file = Appended::open(&path, |_| 0).unwrap();
        file.push(b"first\n");
        file.write().unwrap();
        let disk = Disk::with_room(3);
        file.wrap(|storage| disk.under(storage));
        file.push(b"second\n");
        let error = file.write().unwrap_err().to_string();
        assert!(
            error.contains("rows: cannot append") && error.contains("7 bytes of rows"),
            "{error}"
        );
        assert_eq!(read(&path), "first\n");

        disk.room.store(3, Ordering::Relaxed);
        disk.healthy.store(false, Ordering::Relaxed);
        assert!(file.write().is_err());
        assert_eq!(read(&path), "first\nsec");
        file.push(b"third\n");
        disk.room.store(100, Ordering::Relaxed);
        assert!(file.sync().is_err(), "the torn row could not be cut off");
        disk.healthy.store(true, Ordering::Relaxed);
        assert_eq!(file.sync().unwrap(), 19);
        assert_eq!(read(&path), "first\nsecond\nthird\n");
    }

    proptest! {
        /// Whatever fits on the disk, the file holds whole rows, in the end each row once.
        #[test]
        fn all_rows_arrive_once(rooms in prop::collection::vec((0u64..12, any::<bool>()), 1..30)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rows");
            let mut file = Appended::open(&path, |_| 0).unwrap();
            let disk = Disk::with_room(0);
            file.wrap(|storage| disk.under(storage));
            let mut expected = String::new();
            for (index, (room, healthy)) in rooms.into_iter().enumerate() {
                let row = format!("row {index}\n");
                expected.push_str(&row);
                file.push(row.as_bytes());
                disk.room.store(room, Ordering::Relaxed);
                disk.healthy.store(healthy, Ordering::Relaxed);
                let written = file.write().is_ok();
                let content = read(&path);
                if healthy || written {
                    prop_assert!(expected.starts_with(&content), "{content:?}");
                    prop_assert!(content.is_empty() || content.ends_with('\n'), "{content:?}");
                }
                prop_assert_eq!(&content[..file.length() as usize], &expected[..file.length() as usize]);
            }
            disk.room.store(u64::MAX, Ordering::Relaxed);
            disk.healthy.store(true, Ordering::Relaxed);
            prop_assert_eq!(file.sync().unwrap(), expected.len() as u64);
            prop_assert_eq!(read(&path), expected);
        }
    }
}
