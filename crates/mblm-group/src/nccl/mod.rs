//! Groups of GPUs over NCCL, one rank and one GPU for each process.
//!
//! - **One stream.** All work goes to the device's stream, in the order of the calls. A collective
//!   on tensors returns once its work is on the stream, so the memory that the host frees
//!   afterwards is reused by later work only. [`Group::is_busy`] tells whether it has finished.
//! - **Nothing blocks.** Communicators are non-blocking: after each call the host asks NCCL, with a
//!   limit, until the call is done or has failed. Records of the host (`gather`, `broadcast`) pass
//!   through small buffers on the device; the host asks the stream in the same way.
//! - **Never destroyed alone.** Only [`Group::end`] finalizes and destroys a communicator. A drop
//!   does not, and nothing aborts one: [`Group::abort`] ends the process.

mod communicator;
mod id;

use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor, bail};
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use cudarc::nccl::{result, sys};

use crate::check;
use crate::group::Group;
use crate::watchdog::exit_now;
use communicator::{Communicator, cuda, pointer};
pub use id::Id;

/// The bytes of a record that one collective gathers; longer records need a second.
const FRAME: usize = 1024;

/// One rank of a group of GPUs.
pub struct Nccl {
    rank: usize,
    size: usize,
    device: Device,
    communicator: Communicator,
}

impl Nccl {
    /// Rank `rank` of a group of `size` ranks with the same `id`, on the CUDA device `device`.
    ///
    /// It returns after all ranks have called it. From then on, a call that NCCL does not finish in
    /// `limit` fails, as does this one.
    ///
    /// # Errors
    /// A device that is not CUDA's, or that two ranks of a host use; the failure of NCCL; a rank
    /// that does not come within `limit`.
    pub fn new(device: &Device, rank: usize, size: usize, id: &Id, limit: Duration) -> Result<Self> {
        if !device.is_cuda() {
            bail!("nccl: expected a CUDA device, found {:?}", device.location());
        }
        if rank >= size {
            bail!("nccl: expected a rank below {size}, found {rank}");
        }
        let (count, number) = (integer(size)?, integer(rank)?);
        let communicator = Communicator::start(device.as_cuda_device()?, limit, |raw, config| {
            // SAFETY: the pointers are to variables that live during the call.
            unsafe { result::comm_init_rank_config(raw, count, id.0, number, config) }
        })?;
        Ok(Self {
            rank,
            size,
            device: device.clone(),
            communicator,
        })
    }

    /// Whether this group moves `tensor`: contiguous `f32` or `bf16` on its device.
    fn movable(&self, call: &str, tensor: &Tensor) -> Result<sys::ncclDataType_t> {
        let (expected, found) = (self.device.location(), tensor.device().location());
        if found != expected {
            bail!("{call}: expected a tensor on the group's device {expected:?}, found one on {found:?}");
        }
        check::movable(call, tensor)?;
        match tensor.dtype() {
            DType::F32 => Ok(sys::ncclDataType_t::ncclFloat32),
            DType::BF16 => Ok(sys::ncclDataType_t::ncclBfloat16),
            other => bail!("{call}: expected f32 or bf16 on a GPU, found {other:?}"),
        }
    }

    /// A tensor that a collective fills; the shape, and the type and device of `like`.
    fn room(&self, shape: impl Into<candle_core::Shape>, like: &Tensor) -> Result<Tensor> {
        // SAFETY: the callers pass it to a collective that writes every element, on the stream of
        // all readers.
        unsafe { Tensor::empty(shape, like.dtype(), &self.device) }
    }

    /// Gathers `bytes` of the same length of every rank: (n) → (size·n), finished.
    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let stream = self.communicator.stream();
        let own = stream.clone_htod(bytes).map_err(cuda)?;
        let mut all: CudaSlice<u8> = stream.alloc_zeros(bytes.len() * self.size).map_err(cuda)?;
        {
            let (from, _read) = own.device_ptr(stream);
            let (to, _written) = all.device_ptr_mut(stream);
            self.communicator.call("gather", |raw, stream| {
                let kind = sys::ncclDataType_t::ncclUint8;
                // SAFETY: the buffers have n and size·n bytes and are freed on the same stream.
                unsafe { result::all_gather(from as _, to as _, bytes.len(), kind, raw, stream) }
            })?;
        }
        self.communicator.finish("gather")?;
        stream.clone_dtoh(&all).map_err(cuda)
    }

    /// Sends `bytes` of rank `root` to the others, whose `bytes` have the same length; finished.
    fn broadcast_bytes(&self, root: i32, bytes: &[u8]) -> Result<Vec<u8>> {
        let stream = self.communicator.stream();
        let mut buffer = stream.clone_htod(bytes).map_err(cuda)?;
        {
            let (place, _written) = buffer.device_ptr_mut(stream);
            self.communicator.call("broadcast", |raw, stream| {
                let kind = sys::ncclDataType_t::ncclUint8;
                // SAFETY: the buffer has that many bytes and is freed on the same stream.
                unsafe { result::broadcast(place as _, place as _, bytes.len(), kind, root, raw, stream) }
            })?;
        }
        self.communicator.finish("broadcast")?;
        stream.clone_dtoh(&buffer).map_err(cuda)
    }
}

/// A count as NCCL takes it.
fn integer(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(candle_core::Error::wrap)
}

/// The length in the first eight bytes of `frame`.
fn length(frame: &[u8]) -> Result<usize> {
    let Some(head) = frame.first_chunk() else {
        bail!("gather: expected a length of 8 bytes, found {}", frame.len());
    };
    usize::try_from(u64::from_le_bytes(*head)).map_err(candle_core::Error::wrap)
}

impl Group for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    /// Records of up to about 1 kB take one collective, longer ones two.
    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut frame = (record.len() as u64).to_le_bytes().to_vec();
        frame.extend_from_slice(&record[..record.len().min(FRAME - 8)]);
        frame.resize(FRAME, 0);
        let frames = self.gather_bytes(&frame)?;
        let lengths = frames.chunks(FRAME).map(length).collect::<Result<Vec<_>>>()?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (all, start, each) = match longest <= FRAME - 8 {
            true => (frames, 8, FRAME),
            false => {
                let mut padded = record.to_vec();
                padded.resize(longest, 0);
                (self.gather_bytes(&padded)?, 0, longest)
            }
        };
        let records = all.chunks(each).zip(&lengths);
        Ok(records
            .map(|(bytes, &length)| bytes[start..start + length].to_vec())
            .collect())
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        check::root(self.size, root)?;
        let from = integer(root)?;
        let own = if self.rank == root { bytes } else { &[] };
        let head = self.broadcast_bytes(from, &(own.len() as u64).to_le_bytes())?;
        let mut padded = own.to_vec();
        padded.resize(length(&head)?, 0);
        match padded.is_empty() {
            true => Ok(padded),
            false => self.broadcast_bytes(from, &padded),
        }
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        let kind = self.movable("reduce_scatter", data)?;
        let length = check::block("reduce_scatter", data, self.size)?;
        if length == 0 {
            return Ok(data.clone());
        }
        let sum = self.room(length, data)?;
        let (from, to) = (pointer(data)?, pointer(&sum)?);
        self.communicator.call("reduce_scatter", |raw, stream| {
            let op = sys::ncclRedOp_t::ncclSum;
            // SAFETY: the tensors have size·n and n elements of this type, and are freed on the
            // same stream.
            unsafe { result::reduce_scatter(from as _, to as _, length, kind, op, raw, stream) }
        })?;
        Ok(sum)
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        let kind = self.movable("all_gather", shard)?;
        let length = check::flat("all_gather", shard)?;
        if length == 0 {
            return Ok(shard.clone());
        }
        let all = self.room(length * self.size, shard)?;
        let (from, to) = (pointer(shard)?, pointer(&all)?);
        self.communicator.call("all_gather", |raw, stream| {
            // SAFETY: the tensors have n and size·n elements of this type, and are freed on the
            // same stream.
            unsafe { result::all_gather(from as _, to as _, length, kind, raw, stream) }
        })?;
        Ok(all)
    }

    fn send(&self, to: usize, data: &Tensor) -> Result<()> {
        check::neighbour("send", self.rank, self.size, to)?;
        let kind = self.movable("send", data)?;
        let (from, peer, count) = (pointer(data)?, integer(to)?, data.elem_count());
        self.communicator.call("send", |raw, stream| {
            // SAFETY: the tensor has that many elements of this type, and is freed on the same
            // stream.
            unsafe { result::send(from as _, count, kind, peer, raw, stream) }
        })
    }

    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        check::neighbour("receive", self.rank, self.size, from)?;
        let kind = self.movable("receive", like)?;
        let data = self.room(like.shape(), like)?;
        let (to, peer, count) = (pointer(&data)?, integer(from)?, data.elem_count());
        self.communicator.call("receive", |raw, stream| {
            // SAFETY: the tensor has that many elements of this type, and is freed on the same
            // stream.
            unsafe { result::recv(to as _, count, kind, peer, raw, stream) }
        })?;
        Ok(data)
    }

    fn split(&self, color: usize) -> Result<Arc<dyn Group>> {
        let (color, key) = (integer(color)?, integer(self.rank)?);
        let communicator = self.communicator.split(color, key)?;
        let (rank, size) = communicator.place()?;
        Ok(Arc::new(Self {
            rank,
            size,
            device: self.device.clone(),
            communicator,
        }))
    }

    fn is_busy(&self) -> Result<bool> {
        self.communicator.is_busy()
    }

    fn end(&self) -> Result<()> {
        self.communicator.end()
    }

    /// Ends this process at once; the others notice that its connections close.
    ///
    /// `ncclCommAbort` is not called: it lets collectives that wait on the device finish with
    /// whatever is in their results, and other threads would go on with these numbers.
    fn abort(&self, code: i32) -> ! {
        exit_now(code)
    }
}
