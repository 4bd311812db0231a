//! A group whose ranks are threads of one process, for tests.
//!
//! Sums run in rank order, ((x_0 + x_1) + x_2) + …, so that they have the same bits on every rank
//! and in every run. Tensors are copied when they are handed over: a rank may change its tensor in
//! place afterwards. A rank that panics or drops its group makes the calls of the others fail.

mod room;

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Result, Tensor, bail};

use crate::check;
use crate::group::Group;
use room::{Content, Room};

/// One rank of a group of threads.
///
/// Each thread owns its rank: when the thread ends, the drop tells the other ranks.
pub struct Threads {
    rank: usize,
    room: Arc<Room>,
}

impl Threads {
    /// The `size` ranks of a new group, one for each thread.
    ///
    /// # Panics
    /// A `size` of 0.
    pub fn new(size: usize) -> Vec<Threads> {
        assert!(size > 0, "a group has at least one rank");
        Self::in_room(&Arc::new(Room::new(size, None)))
    }

    /// The same; a call that waits longer than `limit` for another rank fails.
    ///
    /// # Panics
    /// A `size` of 0.
    pub fn with_limit(size: usize, limit: Duration) -> Vec<Threads> {
        assert!(size > 0, "a group has at least one rank");
        Self::in_room(&Arc::new(Room::new(size, Some(limit))))
    }

    fn in_room(room: &Arc<Room>) -> Vec<Threads> {
        let join = |rank| Threads {
            rank,
            room: Arc::clone(room),
        };
        (0..room.size()).map(join).collect()
    }

    /// Hands `content` over, and returns the contents of all ranks. They must call the same.
    fn exchange(&self, call: String, content: Content) -> Result<Arc<Vec<Content>>> {
        self.room.exchange(self.rank, call, content)
    }

    /// Hands a copy of `tensor` over, and returns the tensors of all ranks.
    fn tensors(&self, call: &str, tensor: &Tensor) -> Result<Vec<Tensor>> {
        let call = format!("{call} of {:?} {:?}", tensor.dims(), tensor.dtype());
        let contents = self.exchange(call, Content::Tensor(tensor.copy()?))?;
        contents.iter().map(Content::tensor).collect()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.room.leave(self.rank);
    }
}

impl Group for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.room.size()
    }

    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        let contents = self.exchange("gather".to_string(), Content::Bytes(record.to_vec()))?;
        contents.iter().map(Content::bytes).collect()
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        check::root(self.size(), root)?;
        let own = match self.rank == root {
            true => bytes.to_vec(),
            false => Vec::new(),
        };
        self.exchange(format!("broadcast of rank {root}"), Content::Bytes(own))?[root].bytes()
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        let length = check::block("reduce_scatter", data, self.size())?;
        let tensors = self.tensors("reduce_scatter", data)?;
        let mut blocks = tensors
            .iter()
            .map(|tensor| tensor.narrow(0, self.rank * length, length));
        let first = blocks.next().expect("a group has at least one rank")?.copy()?;
        blocks.try_fold(first, |sum, block| sum.add(&block?))
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        check::flat("all_gather", shard)?;
        Tensor::cat(&self.tensors("all_gather", shard)?, 0)
    }

    fn send(&self, to: usize, data: &Tensor) -> Result<()> {
        check::neighbour("send", self.rank, self.size(), to)?;
        check::movable("send", data)?;
        self.room.send(self.rank, to, data.copy()?)
    }

    fn receive(&self, from: usize, like: &Tensor) -> Result<Tensor> {
        check::neighbour("receive", self.rank, self.size(), from)?;
        check::movable("receive", like)?;
        let data = self.room.receive(from, self.rank)?;
        if data.dims() != like.dims() || data.dtype() != like.dtype() {
            bail!(
                "receive: expected {:?} {:?} from rank {from}, found {:?} {:?}",
                like.dims(),
                like.dtype(),
                data.dims(),
                data.dtype()
            );
        }
        Ok(data)
    }

    fn split(&self, color: usize) -> Result<Arc<dyn Group>> {
        let colors = self.exchange("split".to_string(), Content::Color(color))?;
        let has_color = |content: &Content| matches!(content, Content::Color(other) if *other == color);
        let members: Vec<usize> = (0..self.size()).filter(|&rank| has_color(&colors[rank])).collect();
        let rank = members.iter().take_while(|&&member| member < self.rank).count();

        // the first member makes the room
        let room = (rank == 0).then(|| Arc::new(Room::new(members.len(), self.room.limit())));
        let rooms = self.exchange("split".to_string(), Content::Room(room))?;
        let room = rooms[members[0]].room()?;
        Ok(Arc::new(Threads { rank, room }))
    }

    fn end(&self) -> Result<()> {
        self.barrier()
    }

    /// Ends the process, and with it all ranks.
    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }
}

#[cfg(test)]
mod tests;
