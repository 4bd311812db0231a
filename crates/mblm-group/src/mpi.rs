//! Ranks that are processes under an MPI launcher: collectives on CPU tensors by MPI (crate `mpi`).
//!
//! A process that ended MPI alone would leave the others waiting forever, so nothing ends it but
//! [`Mpi::end`] after all ranks have agreed: not a drop, not a panic. A rank that fails leaves by
//! [`Mpi::abort`], and the launcher ends the others. MPI's own errors end the job.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::Equivalence;
use mpi::environment::Universe;
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Root, Source};
use parking_lot::Mutex;

use crate::check;
use crate::group::Group;

/// The most elements of one message: MPI counts in 32 bits.
const MAX_COUNT: usize = 1 << 30;

/// A communicator, used by one thread at a time.
struct Owned(SimpleCommunicator);

// SAFETY: the communicator is behind a mutex, and MPI was initialized with `Threading::Serialized`,
// which allows calls from any thread as long as they do not overlap.
unsafe impl Send for Owned {}

/// The MPI library of this process; finalized by `end` alone.
struct Library(Mutex<Option<ManuallyDrop<Universe>>>);

// SAFETY: as for `Owned`: the universe is used under its mutex only, to be dropped at the end.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// One rank of a group of processes.
pub struct Mpi {
    rank: usize,
    size: usize,
    communicator: Mutex<Owned>,
    /// `None` in groups that were split off.
    library: Option<Library>,
}

impl Mpi {
    /// Starts MPI and joins all processes that were launched together.
    ///
    /// # Errors
    /// MPI was started before in this process, or cannot be called from several threads.
    pub fn start() -> Result<Self> {
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
            bail!("MPI was started before in this process: expected one start");
        };
        let library = Library(Mutex::new(Some(ManuallyDrop::new(universe))));
        if threading < Threading::Serialized {
            bail!("this MPI library allows {threading:?} calls: expected one built for several threads");
        }
        let world = SimpleCommunicator::world();
        Ok(Self::of(world, Some(library)))
    }

    fn of(communicator: SimpleCommunicator, library: Option<Library>) -> Self {
        Self {
            // MPI's ranks and sizes are not negative
            rank: communicator.rank() as usize,
            size: communicator.size() as usize,
            communicator: Mutex::new(Owned(communicator)),
            library,
        }
    }

    fn sum<T: WithDType + Equivalence>(&self, data: &Tensor, part: usize) -> Result<Tensor> {
        let all = data.to_vec1::<T>()?;
        let communicator = self.communicator.lock();
        let mut sum = vec![T::zero(); part];
        let step = (MAX_COUNT / self.size).max(1);
        for start in (0..part).step_by(step) {
            let end = (start + step).min(part);
            let pieces: Vec<T>;
            let send = match end - start == part {
                true => &all,
                false => {
                    // the same place of the part of each rank
                    let of_rank = |rank: usize| all[rank * part + start..rank * part + end].iter().copied();
                    pieces = (0..self.size).flat_map(of_rank).collect();
                    &pieces
                }
            };
            communicator
                .0
                .reduce_scatter_block_into(&send[..], &mut sum[start..end], SystemOperation::sum());
        }
        Tensor::from_vec(sum, part, &Device::Cpu)
    }

    fn join<T: WithDType + Equivalence>(&self, shard: &Tensor, len: usize) -> Result<Tensor> {
        let own = shard.to_vec1::<T>()?;
        let communicator = self.communicator.lock();
        let mut all = vec![T::zero(); len * self.size];
        let step = (MAX_COUNT / self.size).max(1);
        for start in (0..len).step_by(step) {
            let end = (start + step).min(len);
            if end - start == len {
                communicator.0.all_gather_into(&own[..], &mut all[..]);
                continue;
            }
            let mut pieces = vec![T::zero(); (end - start) * self.size];
            communicator.0.all_gather_into(&own[start..end], &mut pieces[..]);
            for (rank, piece) in pieces.chunks_exact(end - start).enumerate() {
                all[rank * len + start..rank * len + end].copy_from_slice(piece);
            }
        }
        Tensor::from_vec(all, len * self.size, &Device::Cpu)
    }

    fn put<T: WithDType + Equivalence>(&self, to: usize, data: &Tensor) -> Result<()> {
        let data = data.flatten_all()?.to_vec1::<T>()?;
        let communicator = self.communicator.lock();
        let process = communicator.0.process_at_rank(to as i32);
        data.chunks(MAX_COUNT).for_each(|piece| process.send(piece));
        Ok(())
    }

    fn take<T: WithDType + Equivalence>(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        let mut data = vec![T::zero(); like.elem_count()];
        let communicator = self.communicator.lock();
        let process = communicator.0.process_at_rank(from as i32);
        for piece in data.chunks_mut(MAX_COUNT) {
            let expected = piece.len();
            let status = process.receive_into(piece);
            let found = status.count(T::equivalent_datatype()) as usize;
            if found != expected {
                bail!("receive: expected {expected} elements of rank {from}, found {found}");
            }
        }
        Tensor::from_vec(data, like.shape(), &Device::Cpu)
    }
}

/// Calls a method of [`Mpi`] for the type of a tensor on the CPU.
macro_rules! for_type {
    ($name:literal, $tensor:expr, $self:ident . $method:ident ( $($argument:expr),* )) => {{
        check::movable($name, $tensor)?;
        if !$tensor.device().is_cpu() {
            bail!("{}: MPI moves tensors of the CPU, found one of a GPU; use the feature nccl", $name);
        }
        match $tensor.dtype() {
            DType::F64 => $self.$method::<f64>($($argument),*),
            _ => $self.$method::<f32>($($argument),*),
        }
    }};
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        let communicator = self.communicator.lock();
        let mut lengths = vec![0u64; self.size];
        communicator.0.all_gather_into(&(record.len() as u64), &mut lengths[..]);
        // equal blocks, as long as the longest record
        let block = lengths.iter().max().map_or(0, |longest| *longest as usize).max(1);
        if block.saturating_mul(self.size) > MAX_COUNT {
            bail!(
                "gather: the longest record has {block} bytes, expected at most {}",
                MAX_COUNT / self.size
            );
        }
        let mut own = record.to_vec();
        own.resize(block, 0);
        let mut all = vec![0u8; block * self.size];
        communicator.0.all_gather_into(&own[..], &mut all[..]);
        let records = all.chunks_exact(block).zip(&lengths);
        Ok(records
            .map(|(block, length)| block[..*length as usize].to_vec())
            .collect())
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        check::root(self.size, root)?;
        let communicator = self.communicator.lock();
        let process = communicator.0.process_at_rank(root as i32);
        let mut length = bytes.len() as u64;
        process.broadcast_into(&mut length);
        let mut data = match self.rank == root {
            true => bytes.to_vec(),
            false => vec![0; length as usize],
        };
        data.chunks_mut(MAX_COUNT)
            .for_each(|piece| process.broadcast_into(piece));
        Ok(data)
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        let part = check::block("reduce_scatter", data, self.size)?;
        for_type!("reduce_scatter", data, self.sum(data, part))
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        let len = check::flat("all_gather", shard)?;
        for_type!("all_gather", shard, self.join(shard, len))
    }

    fn send(&self, to: usize, data: &Tensor) -> Result<()> {
        check::neighbour("send", self.rank, self.size, to)?;
        for_type!("send", data, self.put(to, data))
    }

    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        check::neighbour("receive", self.rank, self.size, from)?;
        for_type!("receive", like, self.take(from, like))
    }

    fn split(&self, color: usize) -> Result<Arc<dyn Group>> {
        let Ok(color) = i32::try_from(color) else {
            bail!("split: expected a color below 2^31, found {color}");
        };
        let communicator = self.communicator.lock();
        match communicator.0.split_by_color(Color::with_value(color)) {
            Some(part) => Ok(Arc::new(Self::of(part, None))),
            None => bail!("split: MPI made no group for color {color}"),
        }
    }

    fn end(&self) -> Result<()> {
        let Some(library) = &self.library else { return Ok(()) };
        self.barrier()?;
        match library.0.lock().take() {
            Some(universe) => drop(ManuallyDrop::into_inner(universe)), // finalizes MPI
            None => bail!("this group has ended before"),
        }
        Ok(())
    }

    /// Leaves without finalizing MPI; the launcher ends the other processes within seconds.
    fn abort(&self, code: i32) -> ! {
        // SAFETY: `_exit` takes a number and does not return.
        unsafe { libc::_exit(code) }
    }
}
