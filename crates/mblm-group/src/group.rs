//! The interface of a group: R ranks that make the same calls in the same order.
//!
//! A collective returns on a rank only after all ranks have called it. With x_r the tensor of rank
//! r and S the group's size:
//!
//! | call | input | result on rank s |
//! |---|---|---|
//! | `reduce_scatter` | (S·n) | (n): block s of Σ_r x_r |
//! | `all_gather` | (n) | (S·n): x_0, x_1, … one after another |
//! | `all_reduce` | any shape | that shape: Σ_r x_r |
//!
//! `all_reduce` is a `reduce_scatter` and an `all_gather`: an engine's own all-reduce rounds
//! differently from three ranks on, and training compares the two.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::check;

/// R ranks, of which this is one.
///
/// Tensors are contiguous: `f32` or `f64` on the CPU, `f32` or `bf16` on GPUs. All ranks pass
/// tensors of the same type and size to a collective. After an error the ranks no longer agree on
/// the next call, so the group is of no further use: the caller ends the process.
pub trait Group: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Gathers a small record of every rank, in rank order, on all ranks.
    ///
    /// The records may have different lengths.
    ///
    /// # Errors
    /// The failure of the engine or of another rank.
    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends `bytes` of rank `root` to all ranks and returns them.
    ///
    /// The `bytes` of the other ranks are ignored.
    ///
    /// # Errors
    /// A `root` that is no rank; the failure of the engine or of another rank.
    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>>;

    /// Adds the ranks' tensors up: (size·n) → (n), the block of the sum that has this rank's
    /// number.
    ///
    /// # Errors
    /// A tensor that the engine does not move, or whose length the size does not divide; the
    /// failure of the engine or of another rank.
    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor>;

    /// Joins the ranks' tensors in rank order: (n) → (size·n).
    ///
    /// # Errors
    /// A tensor that the engine does not move; the failure of the engine or of another rank.
    fn all_gather(&self, shard: &Tensor) -> Result<Tensor>;

    /// Adds the ranks' tensors up; the result has the shape of `data`.
    ///
    /// # Errors
    /// A tensor that the engine does not move; the failure of the engine or of another rank.
    fn all_reduce(&self, data: &Tensor) -> Result<Tensor> {
        check::movable("all_reduce", data)?;
        let count = data.elem_count();
        if self.size() == 1 || count == 0 {
            return Ok(data.clone());
        }
        let padding = count.next_multiple_of(self.size()) - count;
        let flat = data.flatten_all()?.pad_with_zeros(0, 0, padding)?; // (size·n)
        let shard = self.reduce_scatter(&flat)?; // (n)
        self.all_gather(&shard)?.narrow(0, 0, count)?.reshape(data.shape())
    }

    /// Sends `data` to rank `to`, which calls [`receive`](Self::receive).
    ///
    /// The call may return before or after the other rank has received.
    ///
    /// # Errors
    /// A `to` that is no other rank; a tensor that the engine does not move; the failure of the
    /// engine or of that rank.
    fn send(&self, to: usize, data: &Tensor) -> Result<()>;

    /// Receives a tensor from rank `from`, with the shape, type and device of `like`.
    ///
    /// # Errors
    /// A `from` that is no other rank; a tensor that the engine does not move or that differs from
    /// `like`; the failure of the engine or of that rank.
    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor>;

    /// Waits until all ranks have called it.
    ///
    /// # Errors
    /// The failure of the engine or of another rank.
    fn barrier(&self) -> Result<()> {
        self.gather(&[]).map(drop)
    }

    /// Divides the group: ranks with the same `color` form a group, ordered by their rank in this
    /// one.
    ///
    /// # Errors
    /// The failure of the engine or of another rank.
    fn split(&self, color: usize) -> Result<Arc<dyn Group>>;

    /// Whether work that a collective has left to a device is still unfinished.
    ///
    /// A watchdog asks from its own thread. Engines whose collectives return
    /// finished results answer `false`.
    ///
    /// # Errors
    /// A failure that the engine has noticed meanwhile.
    fn is_busy(&self) -> Result<bool> {
        Ok(false)
    }

    /// Ends the group after all ranks have agreed to end: every rank calls it.
    ///
    /// Nothing else finalizes an engine: a rank that did it alone would hang the others. Groups
    /// that were split off end before the group that they come from.
    ///
    /// # Errors
    /// The failure of the engine or of another rank; a group that has ended already.
    fn end(&self) -> Result<()>;

    /// Ends this process with this exit code, and with it the others of the job.
    ///
    /// Another thread may call it while a collective waits.
    fn abort(&self, code: i32) -> !;
}

/// A shared group is a group.
impl<G: Group + ?Sized> Group for Arc<G> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        (**self).gather(record)
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        (**self).broadcast(root, bytes)
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        (**self).reduce_scatter(data)
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        (**self).all_gather(shard)
    }

    fn all_reduce(&self, data: &Tensor) -> Result<Tensor> {
        (**self).all_reduce(data)
    }

    fn send(&self, to: usize, data: &Tensor) -> Result<()> {
        (**self).send(to, data)
    }

    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        (**self).receive(from, like)
    }

    fn barrier(&self) -> Result<()> {
        (**self).barrier()
    }

    fn split(&self, color: usize) -> Result<Arc<dyn Group>> {
        (**self).split(color)
    }

    fn is_busy(&self) -> Result<bool> {
        (**self).is_busy()
    }

    fn end(&self) -> Result<()> {
        (**self).end()
    }

    fn abort(&self, code: i32) -> ! {
        (**self).abort(code)
    }
}
