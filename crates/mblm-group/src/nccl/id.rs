//! The id of a group of GPUs: 128 bytes with which its ranks find each other.
//!
//! Rank 0 makes it, and the others get it in one of three ways. With `NCCL_COMM_ID` in the
//! environment every rank makes the same id, and rank 0 listens at that address. A group over
//! another engine broadcasts it. A file on a shared disk carries it.

use std::ffi::c_char;
use std::path::Path;
use std::time::Instant;

use candle_core::{Result, bail};
use cudarc::nccl::{result, sys};

use super::communicator::failed;
use crate::group::Group;
use crate::rendezvous::Rendezvous;

/// The id of a group, the same on all ranks.
#[derive(Clone, Copy, Debug)]
pub struct Id(pub(super) sys::ncclUniqueId);

impl Id {
    /// A new id; with `NCCL_COMM_ID` in the environment, the id of that address.
    ///
    /// # Errors
    /// An address that NCCL does not understand, or no network.
    pub fn new() -> Result<Self> {
        result::get_uniqueid()
            .map(Self)
            .map_err(|error| failed("id", error.0, None))
    }

    /// The id that rank 0 of `group` makes.
    ///
    /// # Errors
    /// The failure of NCCL on rank 0, or of the group.
    pub fn through_group(group: &dyn Group) -> Result<Self> {
        let own = match group.rank() {
            0 => Self::new()?.bytes(),
            _ => Vec::new(),
        };
        Self::from_bytes(&group.broadcast(0, &own)?)
    }

    /// The id that rank 0 makes and writes to the file `path` + `.` + `name`; the others wait for
    /// it until `deadline`.
    ///
    /// Rank 0 drops the [`Rendezvous`], and with it the file, after [`Nccl::new`](super::Nccl::new)
    /// has returned. See [`Rendezvous::through_file`] for `name`.
    ///
    /// # Errors
    /// The failure of NCCL on rank 0; a file that cannot be written or read, or that does not
    /// appear in time.
    pub fn through_file(path: &Path, rank: usize, name: &str, deadline: Instant) -> Result<(Self, Rendezvous)> {
        let rendezvous = Rendezvous::through_file(path, rank, name, deadline, || Ok(Self::new()?.bytes()))?;
        Ok((Self::from_bytes(rendezvous.bytes())?, rendezvous))
    }

    fn bytes(self) -> Vec<u8> {
        self.0.internal.iter().map(|&value| value.cast_unsigned()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let values: Vec<c_char> = bytes.iter().map(|&byte| byte as c_char).collect();
        match values.try_into() {
            Ok(internal) => Ok(Self(sys::ncclUniqueId { internal })),
            Err(_) => bail!("nccl: expected an id of 128 bytes, found {}", bytes.len()),
        }
    }
}
