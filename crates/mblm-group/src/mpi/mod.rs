//! Groups of processes over MPI, for tensors of the CPU.
//!
//! - **One call at a time.** MPI is initialized as `Serialized`, and communicators are neither
//!   `Send` nor `Sync`: one mutex, shared by all groups of the process, guards every call. Only
//!   `abort` goes past it, since a collective may hold it for ever.
//! - **Never finalized alone.** A rank that finalizes MPI while others wait hangs the job for ever.
//!   The universe therefore has no drop: [`Group::end`] finalizes, after all ranks have agreed to
//!   end. A process that ends otherwise, by a panic for instance, has not finalized MPI, and its
//!   launcher ends the others.
//! - **Counts** in MPI are `i32`. Longer tensors are cut into several messages.
//! - **Errors** inside MPI are fatal: MPI prints them and ends the job.

mod transfer;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::thread::ThreadId;

use candle_core::{DType, Result, Tensor, bail};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{Communicator, CommunicatorCollectives};
use parking_lot::Mutex;

use crate::check;
use crate::group::Group;
use crate::launch::Launch;
use crate::watchdog::exit_now;
use transfer::Transfer;

/// The most elements of one message: its bytes, and its elements on all ranks together, stay below
/// the limit of MPI's counts.
const MAX_ELEMENTS: usize = 1 << 27;

/// One rank of a group of processes.
pub struct Mpi {
    rank: usize,
    size: usize,
    /// The group that all processes form; its end finalizes MPI.
    is_world: bool,
    max_elements: usize,
    communicator: Owned,
    engine: Arc<Mutex<Engine>>,
}

/// MPI itself; whoever has locked it may call MPI.
struct Engine {
    /// `None` after the end.
    universe: Option<ManuallyDrop<Universe>>,
    thread: ThreadId,
}

/// A communicator, which is never freed alone: that may wait for other ranks.
struct Owned(ManuallyDrop<SimpleCommunicator>);

// SAFETY: `Mpi` uses the communicator only while it has locked the engine, and MPI is initialized
// for calls of several threads one after another.
unsafe impl Send for Owned {}
// SAFETY: as for `Send`.
unsafe impl Sync for Owned {}

impl Mpi {
    /// Initializes MPI and returns this process' rank of the group of all processes.
    ///
    /// The thread that calls it is the one that may call [`Group::end`].
    ///
    /// # Errors
    /// MPI is initialized already, or allows calls of one thread only. MPI's rank and size are not
    /// those of `launch`: an MPI library that does not know its launcher says 0 of 1.
    pub fn start(launch: Option<&Launch>) -> Result<Self> {
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
            bail!("mpi: expected to initialize MPI, but it is initialized already");
        };
        let universe = ManuallyDrop::new(universe);
        if threading < Threading::Serialized {
            bail!("mpi: expected an MPI library for calls of several threads, found {threading:?}");
        }
        let world = universe.world();
        let (rank, size) = (number(world.rank())?, number(world.size())?);
        if let Some(launch) = launch
            && (launch.rank, launch.size) != (rank, size)
        {
            bail!(
                "mpi: expected rank {} of {} as the environment says, found rank {rank} of {size} in {}; \
                 use the launcher of this MPI library",
                launch.rank,
                launch.size,
                library()
            );
        }
        Ok(Self {
            rank,
            size,
            is_world: true,
            max_elements: MAX_ELEMENTS,
            communicator: Owned(ManuallyDrop::new(world)),
            engine: Arc::new(Mutex::new(Engine {
                universe: Some(universe),
                thread: std::thread::current().id(),
            })),
        })
    }

    /// The same group with another limit of the elements of one message, for tests of the cutting.
    ///
    /// All ranks set the same limit, of at least the size of the group.
    pub fn with_max_elements(self, max_elements: usize) -> Self {
        let max_elements = max_elements.clamp(self.size, MAX_ELEMENTS.max(self.size));
        Self { max_elements, ..self }
    }

    /// Runs one call under the lock.
    fn call<T>(&self, run: impl FnOnce(Transfer<'_>) -> Result<T>) -> Result<T> {
        let engine = self.engine.lock();
        if engine.universe.is_none() {
            bail!("mpi: expected no calls after the end of the group");
        }
        run(Transfer {
            communicator: &self.communicator.0,
            size: self.size,
            max_elements: self.max_elements,
        })
    }
}

/// The first line of what MPI says about itself.
fn library() -> String {
    let version = mpi::environment::library_version().unwrap_or_default();
    version.lines().next().unwrap_or_default().to_string()
}

/// A rank or a size, which MPI never makes negative.
fn number(value: i32) -> Result<usize> {
    usize::try_from(value).map_err(candle_core::Error::wrap)
}

/// Whether MPI moves this tensor.
fn movable(call: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.device().is_cpu() {
        bail!(
            "{call}: MPI moves tensors of the CPU only, found one on {:?}; GPUs need the feature nccl",
            tensor.device().location()
        );
    }
    check::movable(call, tensor)
}

/// Calls a function of [`Transfer`] with the tensor's type.
macro_rules! by_type {
    ($call:literal, $tensor:expr, $transfer:ident.$function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F32 => $transfer.$function::<f32>($($argument),*),
            DType::F64 => $transfer.$function::<f64>($($argument),*),
            other => bail!("{}: expected f32 or f64 on the CPU, found {other:?}", $call),
        }
    };
}

impl Group for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.call(|transfer| transfer.gather(record))
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        check::root(self.size, root)?;
        self.call(|transfer| transfer.broadcast(root, if self.rank == root { bytes } else { &[] }))
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        movable("reduce_scatter", data)?;
        check::block("reduce_scatter", data, self.size)?;
        self.call(|transfer| by_type!("reduce_scatter", data, transfer.reduce_scatter(data)))
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        movable("all_gather", shard)?;
        check::flat("all_gather", shard)?;
        self.call(|transfer| by_type!("all_gather", shard, transfer.all_gather(shard)))
    }

    /// A tensor that one message takes arrives later; a longer one may wait for the receiver.
    fn send(&self, to: usize, data: &Tensor) -> Result<()> {
        check::neighbour("send", self.rank, self.size, to)?;
        movable("send", data)?;
        self.call(|transfer| by_type!("send", data, transfer.send(to, data)))
    }

    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        check::neighbour("receive", self.rank, self.size, from)?;
        movable("receive", like)?;
        self.call(|transfer| by_type!("receive", like, transfer.receive(from, like)))
    }

    fn barrier(&self) -> Result<()> {
        self.call(|transfer| {
            transfer.communicator.barrier();
            Ok(())
        })
    }

    fn split(&self, color: usize) -> Result<Arc<dyn Group>> {
        let Ok(value) = i32::try_from(color) else {
            bail!("split: expected a color below 2³¹, found {color}");
        };
        let key = i32::try_from(self.rank).map_err(candle_core::Error::wrap)?;
        let part = self.call(|transfer| {
            let part = transfer
                .communicator
                .split_by_color_with_key(Color::with_value(value), key);
            Ok(part.map(|part| (part.rank(), part.size(), Owned(ManuallyDrop::new(part)))))
        })?;
        let Some((rank, size, communicator)) = part else {
            bail!("split: MPI made no group for color {color}");
        };
        Ok(Arc::new(Self {
            rank: number(rank)?,
            size: number(size)?,
            is_world: false,
            max_elements: self.max_elements,
            communicator,
            engine: Arc::clone(&self.engine),
        }))
    }

    /// Waits for all ranks; on the group of all processes, finalizes MPI.
    ///
    /// # Errors
    /// MPI has ended; the thread is not the one that started MPI.
    fn end(&self) -> Result<()> {
        if self.is_world && self.engine.lock().thread != std::thread::current().id() {
            bail!("mpi: expected the end on the thread that started MPI");
        }
        self.barrier()?;
        if self.is_world
            && let Some(universe) = self.engine.lock().universe.take()
        {
            drop(ManuallyDrop::into_inner(universe)); // MPI_Finalize
        }
        Ok(())
    }

    fn abort(&self, code: i32) -> ! {
        // Without the lock: a collective of another thread may hold it for ever.
        // SAFETY: MPI_Abort ends the process and returns to nobody; Open MPI and MPICH do so while
        // another thread is inside a collective.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
        exit_now(code)
    }
}
