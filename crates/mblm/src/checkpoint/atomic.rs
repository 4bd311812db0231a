//! Files and folders that appear complete or not at all.
//!
//! The content goes to a temporary file in the same folder, is flushed to the disk (`fsync`), renamed over the target, and
//! the folder is flushed as well. A crash at any moment leaves the old file or the new one, never a part of either. A folder
//! of files is made the same way: under a temporary name, with the checksums of its files in [`SUMS_FILE`], and renamed.
//!
//! With the feature `failpoints` every step that changes the disk passes the fail point `disk`, where tests let the disk be
//! full or the process die.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::sums::{Hashing, SUMS_FILE, sums_text};

use crate::{Error, Result};

const BUFFER: usize = 1 << 20;

/// How temporary names end; they begin with a dot.
const TEMPORARY: &str = ".tmp";

/// Writes the file at `path` with what `fill` writes, replacing a file that is there in one step.
///
/// The folder must exist. On an error nothing has changed at `path`, and no temporary file is left.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_io(path, fill).map_err(|error| Error::file(path, format!("cannot write the file: {error}")))
}

fn write_io(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
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
        // The permissions of an ordinary new file: the umask takes its part.
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

/// A folder in the making.
pub struct NewFolder {
    path: PathBuf,
    sums: Vec<(String, String)>,
}

impl NewFolder {
    /// Writes one of the folder's files with what `fill` writes.
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

/// Makes the folder `path` of the files that `fill` writes, and a file of their checksums; a folder of that name is replaced.
///
/// The folder that it lies in must exist. On an error nothing has changed at `path`. A crash leaves the folder that was
/// there, the new one, or, between the two renames of a replacement, none; and perhaps one with a temporary name, which
/// [`clean`] removes.
pub fn write_folder(path: &Path, fill: impl FnOnce(&mut NewFolder) -> Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::file(path, format!("cannot write the folder: {error}"));
    let temporary = TemporaryFolder::new(path).map_err(failed)?;
    let mut folder = NewFolder {
        path: temporary.0.clone(),
        sums: Vec::new(),
    };
    // whoever reads the message knows the folder by the name that it was going to have
    let named = |error| match error {
        Error::File { path: inside, message } => match inside.strip_prefix(&temporary.0) {
            Ok(name) => Error::file(path.join(name), message),
            Err(_) => Error::file(inside, message),
        },
        other => other,
    };
    fill(&mut folder).map_err(named)?;
    let sums = sums_text(&folder.sums);
    write(&temporary.0.join(SUMS_FILE), |out| out.write_all(sums.as_bytes())).map_err(named)?;
    temporary.persist(path).map_err(failed)
}

/// A folder under a temporary name, removed unless it is persisted.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// An empty folder beside `path`.
    fn new(path: &Path) -> io::Result<Self> {
        let temporary = beside(path, "new")?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fail_point()?;
        fs::create_dir(&temporary)?;
        Ok(Self(temporary))
    }

    fn persist(self, path: &Path) -> io::Result<()> {
        let old = beside(path, "old")?;
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
        // gone after a rename; else a leftover that the next attempt or `clean` removes if it cannot be removed now
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The name `.NAME.what.tmp` beside `path`.
fn beside(path: &Path, what: &str) -> io::Result<PathBuf> {
    match path.file_name() {
        Some(name) => Ok(path.with_file_name(format!(".{}.{what}{TEMPORARY}", name.to_string_lossy()))),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no folder")),
    }
}

/// Removes what a killed process left in a folder under temporary names.
pub fn clean(folder: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::file(folder, format!("cannot remove temporary files: {error}"));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or a folder with all that is in it; fine if it is not there.
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

/// A step that changes the disk. Tests make it fail as a full disk does, or kill the process.
pub(crate) fn fail_point() -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    fail::fail_point!("disk", |action| match action.as_deref() {
        Some("abort") => std::process::abort(),
        _ => Err(io::Error::from(io::ErrorKind::StorageFull)),
    });
    Ok(())
}

/// Makes the rename itself durable. Elsewhere than on Unix a folder cannot be opened to be flushed.
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
        // A folder in the file's place.
        assert!(write(folder.path(), |_| Ok(())).is_err());
        assert!(write(Path::new("/"), |_| Ok(())).is_err());
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
