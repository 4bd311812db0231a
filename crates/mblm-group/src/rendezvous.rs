//! A few bytes of rank 0 that the other ranks read from a file on a shared disk.
//!
//! The file has the name of the attempt of the job, so that a later attempt does not read an
//! earlier one's. It appears whole: rank 0 writes another file and renames it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Error, Result, bail};

/// The time between two looks for the file.
const PAUSE: Duration = Duration::from_millis(20);

/// The bytes that all ranks share; on rank 0 also the file, which the drop removes.
#[derive(Debug)]
pub struct Rendezvous {
    bytes: Vec<u8>,
    file: Option<PathBuf>,
}

impl Rendezvous {
    /// Shares the bytes that `make` returns on rank 0, through the file `path` + `.` + `name`.
    ///
    /// The other ranks wait for the file until `deadline`. Rank 0 drops the result after all ranks
    /// have met, and with it the file. `name` is the [name of the
    /// attempt](crate::launch::attempt_name): a file that a killed attempt of the same name has
    /// left would be read.
    ///
    /// # Errors
    /// A name that is none of a file; a file that cannot be written or read, or that does not
    /// appear in time; the failure of `make`.
    pub fn through_file(
        path: &Path,
        rank: usize,
        name: &str,
        deadline: Instant,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        if name.is_empty() || name.contains(['/', '\\']) {
            bail!("rendezvous: expected a name for a file, found {name:?}");
        }
        let mut file = path.as_os_str().to_owned();
        file.push(".");
        file.push(name);
        let file = PathBuf::from(file);
        if rank == 0 {
            let bytes = make()?;
            write(&file, &bytes)?;
            return Ok(Self {
                bytes,
                file: Some(file),
            });
        }
        let bytes = read(&file, deadline)?;
        Ok(Self { bytes, file: None })
    }

    /// The shared bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // a file that is gone already is as good; the next attempt has another name
            let _ = fs::remove_file(file);
        }
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error| Error::msg(format!("rendezvous: {}: {error}", file.display()));
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".unfinished");
    fs::write(&unfinished, bytes).map_err(failed)?;
    fs::rename(&unfinished, file).map_err(failed)
}

fn read(file: &Path, deadline: Instant) -> Result<Vec<u8>> {
    let start = Instant::now();
    loop {
        match fs::read(file) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "rendezvous: expected the file {} of rank 0, waited {:.1} s; is the disk shared?",
                file.display(),
                start.elapsed().as_secs_f64()
            ),
            Err(error) => bail!("rendezvous: {}: {error}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that no other test has.
    fn path(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mblm-rendezvous-{}-{test}", std::process::id()))
    }

    fn never() -> Result<Vec<u8>> {
        bail!("only rank 0 makes the bytes")
    }

    #[test]
    fn late_and_early_ranks_read_the_bytes() -> Result<()> {
        let (path, deadline) = (path("bytes"), Instant::now() + Duration::from_secs(20));
        std::thread::scope(|scope| {
            let early = scope.spawn(|| Rendezvous::through_file(&path, 1, "job-0", deadline, never));
            std::thread::sleep(Duration::from_millis(50));
            let first = Rendezvous::through_file(&path, 0, "job-0", deadline, || Ok(vec![7; 128]))?;
            let early = early.join().expect("the rank returns")?;
            let late = Rendezvous::through_file(&path, 2, "job-0", deadline, never)?;
            assert_eq!((early.bytes(), late.bytes()), (first.bytes(), first.bytes()));
            drop((early, late));
            let file = first.file.clone().expect("rank 0 has the file");
            assert!(file.exists() && file.to_string_lossy().ends_with(".job-0"));
            drop(first);
            assert!(!file.exists(), "rank 0 removes it");
            Ok(())
        })
    }

    #[test]
    fn a_missing_file_is_named() {
        let soon = Instant::now() + Duration::from_millis(50);
        let failed = |name| match Rendezvous::through_file(&path("missing"), 1, name, soon, never) {
            Ok(found) => panic!("expected an error, found {found:?}"),
            Err(error) => error.to_string(),
        };
        assert!(failed("job-1").contains("missing.job-1 of rank 0"));
        assert!(failed("a/b").contains("expected a name"));
    }
}
