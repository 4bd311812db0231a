//! What MPI moves: slices of the tensors' memory, cut into messages of a bounded length.

use candle_core::{CpuStorage, Result, Storage, Tensor, WithDType, bail};
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Equivalence, Root, Source};

/// The types of numbers that MPI moves.
pub(super) trait Number: WithDType + Equivalence {}

impl Number for f32 {}
impl Number for f64 {}

/// The calls of one communicator. Whoever has one has locked MPI.
#[derive(Clone, Copy)]
pub(super) struct Transfer<'a> {
    pub(super) communicator: &'a SimpleCommunicator,
    pub(super) size: usize,
    /// The most elements of one message, of all ranks together in a collective.
    pub(super) max_elements: usize,
}

impl Transfer<'_> {
    pub(super) fn gather(self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut lengths = vec![0u64; self.size];
        self.communicator
            .all_gather_into(&(record.len() as u64), &mut lengths[..]);
        let mut counts = Vec::with_capacity(self.size);
        let mut starts = Vec::with_capacity(self.size);
        let mut total = 0i32;
        for &length in &lengths {
            let end = i32::try_from(length).ok().and_then(|length| total.checked_add(length));
            let Some(end) = end else {
                bail!("gather: expected records of less than 2³¹ bytes in all, found {lengths:?}");
            };
            starts.push(total);
            counts.push(end - total);
            total = end;
        }
        if total == 0 {
            return Ok(vec![Vec::new(); self.size]);
        }
        let mut bytes = vec![0u8; lengths.iter().sum::<u64>() as usize];
        // an empty slice of bytes has the address 1, which means "in place" to Open MPI
        let mut own = Vec::with_capacity(record.len().max(1));
        own.extend_from_slice(record);
        let mut partition = PartitionMut::new(&mut bytes[..], counts, &starts[..]);
        self.communicator.all_gather_varcount_into(&own[..], &mut partition);
        let mut rest = &bytes[..];
        Ok(lengths
            .iter()
            .map(|&length| {
                let (record, others) = rest.split_at(length as usize);
                rest = others;
                record.to_vec()
            })
            .collect())
    }

    /// `own` is empty on other ranks than `root`.
    pub(super) fn broadcast(self, root: usize, own: &[u8]) -> Result<Vec<u8>> {
        let process = self.communicator.process_at_rank(rank(root)?);
        let mut length = own.len() as u64;
        process.broadcast_into(&mut length);
        let mut bytes = own.to_vec();
        bytes.resize(usize::try_from(length).map_err(candle_core::Error::wrap)?, 0);
        for chunk in bytes.chunks_mut(self.max_elements) {
            process.broadcast_into(chunk);
        }
        Ok(bytes)
    }

    /// (size·n) → (n)
    pub(super) fn reduce_scatter<T: Number>(self, data: &Tensor) -> Result<Tensor> {
        let length = data.elem_count() / self.size;
        if length == 0 {
            return Ok(data.clone());
        }
        let mut sum = vec![T::zero(); length];
        with_slice::<T, _>(data, |data| {
            if data.len() <= self.max_elements {
                self.communicator
                    .reduce_scatter_block_into(data, &mut sum[..], SystemOperation::sum());
                return Ok(());
            }
            // the same elements of every block, one message after another
            let step = (self.max_elements / self.size).max(1);
            let mut message = Vec::with_capacity(step * self.size);
            for (index, sum) in sum.chunks_mut(step).enumerate() {
                message.clear();
                for block in data.chunks(length) {
                    message.extend_from_slice(&block[index * step..][..sum.len()]);
                }
                self.communicator
                    .reduce_scatter_block_into(&message[..], sum, SystemOperation::sum());
            }
            Ok(())
        })?;
        Tensor::from_vec(sum, length, data.device())
    }

    /// (n) → (size·n)
    pub(super) fn all_gather<T: Number>(self, shard: &Tensor) -> Result<Tensor> {
        let length = shard.elem_count();
        if length == 0 {
            return Ok(shard.clone());
        }
        let mut all = vec![T::zero(); length * self.size];
        with_slice::<T, _>(shard, |shard| {
            if all.len() <= self.max_elements {
                self.communicator.all_gather_into(shard, &mut all[..]);
                return Ok(());
            }
            let step = (self.max_elements / self.size).max(1);
            let mut message = vec![T::zero(); step * self.size];
            for (index, part) in shard.chunks(step).enumerate() {
                let message = &mut message[..part.len() * self.size];
                self.communicator.all_gather_into(part, message);
                for (block, part) in all.chunks_mut(length).zip(message.chunks(part.len())) {
                    block[index * step..][..part.len()].copy_from_slice(part);
                }
            }
            Ok(())
        })?;
        Tensor::from_vec(all, length * self.size, shard.device())
    }

    pub(super) fn send<T: Number>(self, to: usize, data: &Tensor) -> Result<()> {
        let process = self.communicator.process_at_rank(rank(to)?);
        with_slice::<T, _>(data, |data| {
            data.chunks(self.max_elements).for_each(|chunk| process.send(chunk));
            Ok(())
        })
    }

    pub(super) fn receive<T: Number>(self, from: usize, like: &Tensor) -> Result<Tensor> {
        let process = self.communicator.process_at_rank(rank(from)?);
        let mut data = vec![T::zero(); like.elem_count()];
        for chunk in data.chunks_mut(self.max_elements) {
            let expected = chunk.len();
            let found = process.receive_into(chunk).count(T::equivalent_datatype());
            if usize::try_from(found) != Ok(expected) {
                bail!("receive: expected {expected} elements from rank {from}, found {found}");
            }
        }
        Tensor::from_vec(data, like.shape(), like.device())
    }
}

/// Hands over the elements of a contiguous tensor of the CPU.
fn with_slice<T: Number, R>(tensor: &Tensor, take: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!(
            "expected a tensor of the CPU, found one on {:?}",
            tensor.device().location()
        )
    };
    take(&elements::<T>(storage)?[layout.start_offset()..][..layout.shape().elem_count()])
}

fn elements<T: Number>(storage: &CpuStorage) -> Result<&[T]> {
    storage.as_slice::<T>()
}

fn rank(rank: usize) -> Result<i32> {
    i32::try_from(rank).map_err(candle_core::Error::wrap)
}
