//! Files and folders that appear complete or not at all.
//!
//! The content goes to a temporary file in the same folder, which is flushed to the disk (`fsync`)
//! and renamed over the target; then the folder is flushed. After a crash either the old or the new
//! file is there, never a part. A folder is made the same way: under a temporary name, with the
//! checksums of its files in [`SUMS_FILE`].
//!
//! With the feature `failpoints` every change of the disk passes the fail point `disk`, at which
//! tests simulate a full disk or kill the process.
//!
//! ```
//! use mblm::checkpoint::atomic;
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("numbers.txt");
//! atomic::write(&path, |out| writeln!(out, "1 2 3"))?;
//! assert_eq!(std::fs::read_to_string(&path)?, "1 2 3\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::layout::SUMS_FILE;
use super::sums::{Hashing, sums_text};

use crate::{Error, Result};

const BUFFER: usize = 1 << 20;

/// The file that a process locks while it works in a folder.
const LOCK_FILE: &str = ".lock";

/// The suffix of temporary names, which begin with a dot.
const TEMPORARY: &str = ".tmp";

/// The suffixes before it: of a folder that is being replaced, and of its replacement.
const OLD: &str = ".old";
const NEW: &str = ".new";

/// Writes the file at `path` with the output of `fill`, replacing an existing file atomically.
///
/// The folder must exist. On an error `path` is unchanged and no temporary file is left.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_io(path, fill).map_err(|error| Error::file(path, format!("cannot write the file: {error}")))
}

fn write_io(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected the path of a file, found a path without a \
             file's name",
        ));
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(TEMPORARY);
    #[cfg(unix)]
    {
        // The permissions of an ordinary new file, subject to the umask.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    fail_point()?;
    let mut temporary = builder.tempfile_in(folder)?;
    {
        let mut writer = BufWriter::with_capacity(BUFFER, temporary.as_file_mut());
        fill(&mut writer)?;
        fail_point()?;
        writer.flush()?;
    }
    fail_point()?;
    temporary.as_file().sync_all()?;
    fail_point()?;
    temporary.persist(path).map_err(|refused| refused.error)?;
    sync_folder(folder)
}

/// A folder that is being written.
pub struct NewFolder {
    path: PathBuf,
    sums: Vec<(String, String)>,
}

impl NewFolder {
    /// Writes one file of the folder with the output of `fill`.
    pub fn write(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut sum = String::new();
        write(&self.path.join(name), |out| {
            let mut hashing = Hashing::new(out);
            fill(&mut hashing)?;
            sum = hashing.finish();
            Ok(())
        })?;
        self.sums.push((name.to_string(), sum));
        Ok(())
    }
}

/// Writes or replaces the folder `path` with the files of `fill` and their checksums.
///
/// Its parent must exist. On an error `path` is unchanged. A crash leaves the old folder, the new
/// one or, between the two renames of a replacement, neither; [`clean`] removes its leftovers.
pub fn write_folder(path: &Path, fill: impl FnOnce(&mut NewFolder) -> Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::file(path, format!("cannot write the folder: {error}"));
    let temporary = TemporaryFolder::new(path).map_err(failed)?;
    // messages use the final name of the folder
    let named = |error| match error {
        Error::File { path: inside, message } => match inside.strip_prefix(&temporary.0) {
            Ok(name) => Error::file(path.join(name), message),
            Err(_) => Error::file(inside, message),
        },
        other => other,
    };
    fill_folder(&temporary.0, fill).map_err(named)?;
    temporary.persist(path).map_err(failed)
}

/// Writes files into the existing folder `path`, each atomically, and then their checksums.
pub fn fill_folder(path: &Path, fill: impl FnOnce(&mut NewFolder) -> Result<()>) -> Result<()> {
    let mut folder = NewFolder {
        path: path.to_path_buf(),
        sums: Vec::new(),
    };
    fill(&mut folder)?;
    let sums = sums_text(&folder.sums);
    write(&path.join(SUMS_FILE), |out| out.write_all(sums.as_bytes()))
}

/// Creates a folder and its missing parents, durably: they survive a loss of power.
pub fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    let failed = |error: io::Error| Error::file(path, format!("cannot make the folder: {error}"));
    let parent = path.parent().unwrap_or(Path::new(""));
    make_folder(parent)?;
    fail_point().map_err(failed)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    match parent.as_os_str().is_empty() {
        true => sync_folder(Path::new(".")),
        false => sync_folder(parent),
    }
    .map_err(failed)
}

/// A folder under a temporary name, removed unless it is persisted.
pub(super) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Creates an empty folder beside `path`.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let temporary = beside(path, NEW)?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fail_point()?;
        fs::create_dir(&temporary)?;
        Ok(Self(temporary))
    }

    /// Returns the temporary path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Renames the folder to `path`, replacing an existing one.
    pub(super) fn persist(self, path: &Path) -> io::Result<()> {
        let old = beside(path, OLD)?;
        if path.exists() {
            if old.exists() {
                fs::remove_dir_all(&old)?;
            }
            fail_point()?;
            fs::rename(path, &old)?;
        }
        fail_point()?;
        fs::rename(&self.0, path)?;
        fail_point()?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // gone after a rename; a failed removal is left to the next attempt or to `clean`
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Returns the path `.NAME`, `what`, `.tmp` beside `path`.
fn beside(path: &Path, what: &str) -> io::Result<PathBuf> {
    match path.file_name() {
        Some(name) => Ok(path.with_file_name(format!(".{}{what}{TEMPORARY}", name.to_string_lossy()))),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected the path of a folder, found a path without a \
             folder's name",
        )),
    }
}

/// Locks a folder for this process while the result lives; the system unlocks it when the process
/// ends, however it ends.
///
/// # Errors
/// Another process holds the lock.
pub fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::file(&path, format!("cannot make the file: {error}")))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(Error::file(
            folder,
            "another process is using this folder; wait for it or stop it",
        )),
        // file systems without locks are accepted
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Returns whether another process holds the [`lock`] of a folder.
pub fn is_locked(folder: &Path) -> bool {
    let file = File::open(folder.join(LOCK_FILE));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// Removes the temporary files of a killed process; restores a folder that was being replaced.
pub fn clean(folder: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::file(folder, format!("cannot remove temporary files: {error}"));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some(inner) = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY)) else {
            continue;
        };
        match inner.strip_suffix(OLD).map(|name| folder.join(name)) {
            Some(lost) if !lost.exists() => fs::rename(entry.path(), lost).map_err(failed)?,
            _ => remove(&entry.path())?,
        }
    }
    Ok(())
}

/// Removes a file, or a folder with its content; succeeds if it does not exist.
pub fn remove(path: &Path) -> Result<()> {
    fail_point().map_err(|error| Error::file(path, error))?;
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file(path, format!("cannot be removed: {error}")))
        }
        _ => Ok(()),
    }
}

/// Sets the fail point `disk` from the environment's `FAILPOINTS`, with the feature `failpoints`.
/// `disk=7*off->return(abort)` kills the process at the eighth change, `return(full)` makes it
/// fail.
pub fn fail_points_from_environment() {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup()); // its end would clear the points
}

/// Marks a change of the disk. Tests make it fail as a full disk does, or kill the process.
pub(crate) fn fail_point() -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    fail::fail_point!("disk", |action| match action.as_deref() {
        Some("abort") => std::process::abort(),
        _ => Err(io::Error::from(io::ErrorKind::StorageFull)),
    });
    Ok(())
}

/// Makes the rename itself durable. Only on Unix can a folder be opened and flushed.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_the_whole_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, |out| out.write_all(b"a long first version")).unwrap();
        write(&path, |out| out.write_all(b"second")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(entries(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failure_halfway_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, |out| out.write_all(b"old")).unwrap();
        let error = write(&path, |out| {
            out.write_all(b"half of the new")?;
            Err(io::Error::other("the disk is full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(folder.path()), ["a.bin"]);
    }

    #[test]
    fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing").join("a.bin");
        assert!(write(&missing, |_| Ok(())).unwrap_err().to_string().contains("missing"));
        // the target is a folder
        assert!(write(folder.path(), |_| Ok(())).is_err());
        assert!(write(Path::new("/"), |_| Ok(())).is_err());
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("f");
        write_folder(&path, |folder| folder.write("a", |out| out.write_all(b"first"))).unwrap();
        assert_eq!(entries(&path), [SUMS_FILE, "a"]);
        let error = write_folder(&path, |folder| {
            folder.write("a", |out| out.write_all(b"second"))?;
            folder.write("b", |_| Err(io::Error::other("the disk is full")))
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("f/b: ") && error.contains("the disk is full"), "{error}");
        assert!(!error.contains(NEW), "{error}");
        assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
        assert_eq!(entries(parent.path()), ["f"]);
        write_folder(&path, |folder| folder.write("b", |out| out.write_all(b"third"))).unwrap();
        assert_eq!(entries(&path), [SUMS_FILE, "b"]);
        assert_eq!(entries(parent.path()), ["f"]);
        assert!(write_folder(&parent.path().join("missing/f"), |_| Ok(())).is_err());
    }

    #[test]
    fn a_folder_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let message = lock(folder.path()).unwrap_err().to_string();
        assert!(message.contains("another process is using"), "{message}");
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_cleaned_up() {
        let parent = tempfile::tempdir().unwrap();
        // killed between the two renames of g, after both of f, and while h was written
        for name in [".g.old.tmp", ".g.new.tmp", ".f.old.tmp", "f", ".h.new.tmp"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join("from"), name).unwrap();
        }
        fs::write(parent.path().join(".config.yaml.Ab3.tmp"), "half").unwrap();
        fs::write(parent.path().join(".hidden"), "").unwrap();
        clean(parent.path()).unwrap();
        assert_eq!(entries(parent.path()), [".hidden", "f", "g"]);
        assert_eq!(fs::read(parent.path().join("g/from")).unwrap(), b".g.old.tmp");
        assert_eq!(fs::read(parent.path().join("f/from")).unwrap(), b"f");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_has_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write(&ours, |_| Ok(())).unwrap();
        File::create(&plain).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
