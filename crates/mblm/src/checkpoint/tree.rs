//! A folder of many files that appears complete or not at all.
//!
//! Threads may write the files concurrently, into a temporary folder beside the target. At the end
//! all files are flushed to the disk and the folder is renamed; a flush after each file would cost
//! more than the files.
//!
//! ```
//! use mblm::checkpoint::tree::NewTree;
//!
//! let parent = tempfile::tempdir()?;
//! let path = parent.path().join("tree");
//! let tree = NewTree::new(&path)?;
//! tree.put("a.txt", b"a")?;
//! assert!(!path.exists());
//! tree.finish()?;
//! assert!(path.join("a.txt").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::atomic::{TemporaryFolder, fail_point, sync_folder};
use crate::{Error, Result};

const BUFFER: usize = 1 << 16;

/// A folder that is being written; nothing of it stays unless it is [finished](Self::finish).
pub struct NewTree {
    temporary: TemporaryFolder,
    path: PathBuf,
}

impl NewTree {
    /// Begins the folder `path`. An existing one stays until the end; its parent must exist.
    pub fn new(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::file(path, format!("cannot make the folder: {error}"));
        Ok(Self {
            temporary: TemporaryFolder::new(path).map_err(failed)?,
            path: path.to_path_buf(),
        })
    }

    /// Creates a subfolder and its missing parents.
    pub fn folder(&self, name: &str) -> Result<()> {
        let made = fail_point().and_then(|()| fs::create_dir_all(self.temporary.path().join(name)));
        made.map_err(|error| Error::file(self.path.join(name), format!("cannot make the folder: {error}")))
    }

    /// Writes a file of the folder at once.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut file = self.file(name)?;
        file.write(content)?;
        file.finish()
    }

    /// Begins a file of the folder that is written piece by piece.
    pub fn file(&self, name: &str) -> Result<NewFile> {
        let path = self.path.join(name);
        match fail_point().and_then(|()| File::create(self.temporary.path().join(name))) {
            Ok(file) => Ok(NewFile {
                writer: BufWriter::with_capacity(BUFFER, file),
                path,
            }),
            Err(error) => Err(Error::file(path, format!("cannot make the file: {error}"))),
        }
    }

    /// Flushes all files to the disk and renames the folder, replacing an existing one.
    pub fn finish(self) -> Result<()> {
        for entry in walkdir::WalkDir::new(self.temporary.path()) {
            let flushed = entry.map_err(io::Error::from).and_then(|entry| flush(&entry));
            flushed
                .map_err(|error| Error::file(&self.path, format!("cannot flush the folder to the disk: {error}")))?;
        }
        let Self { temporary, path } = self;
        let failed = |error: io::Error| Error::file(&path, format!("cannot rename the finished folder: {error}"));
        temporary.persist(&path).map_err(failed)
    }
}

fn flush(entry: &walkdir::DirEntry) -> io::Result<()> {
    match entry.file_type().is_dir() {
        true => sync_folder(entry.path()),
        // only Unix can flush a file that was opened for reading
        false if cfg!(unix) => File::open(entry.path())?.sync_all(),
        false => Ok(()),
    }
}

/// A file of a [`NewTree`] that is being written; errors name it by its final path.
pub struct NewFile {
    writer: BufWriter<File>,
    path: PathBuf,
}

impl NewFile {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = fail_point().and_then(|()| self.writer.write_all(bytes));
        written.map_err(|error| self.failed(error))
    }

    /// Flushes the bytes still in memory.
    pub fn finish(mut self) -> Result<()> {
        let written = fail_point().and_then(|()| self.writer.flush());
        written.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::file(&self.path, format!("cannot write the file: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = walkdir::WalkDir::new(folder)
            .min_depth(1)
            .into_iter()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .strip_prefix(folder)
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_is_there_when_it_is_finished_and_not_before() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let fill = |text: &str| {
            let tree = NewTree::new(&path).unwrap();
            tree.folder("a/b").unwrap();
            let mut grown = tree.file("a/grown").unwrap();
            grown.write(text.as_bytes()).unwrap();
            tree.put("a/b/put", b"put").unwrap();
            grown.write(b" more").unwrap();
            grown.finish().unwrap();
            tree
        };
        drop(fill("one"));
        assert!(names(parent.path()).is_empty());
        fill("one").finish().unwrap();
        assert_eq!(names(&path), ["a", "a/b", "a/b/put", "a/grown"]);
        let replacing = fill("two");
        assert_eq!(fs::read(path.join("a/grown")).unwrap(), b"one more");
        replacing.finish().unwrap();
        assert_eq!(fs::read(path.join("a/grown")).unwrap(), b"two more");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file_that_was_going_to_be() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let tree = NewTree::new(&path).unwrap();
        let error = tree.put("missing/file", b"").unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: ", path.join("missing/file").display())),
            "{error}"
        );
        assert!(NewTree::new(&path.join("in/none")).is_err());
    }
}
