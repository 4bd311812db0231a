//! Many streams that go on from one state, in shards that are stepped side by side.
//!
//! A step of a few streams is many short loops, and threads that share each of them wait for each other after each. Shards share
//! nothing: a thread takes a shard through the whole step. A shard of [`LANE`] streams is wide enough for products of full speed.
//! What a stream gives does not depend on its shard. A GPU takes all streams at once: there they are one shard.

use mblm_ops::cpu::{on_workers, par_map, threads};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::generator::{GeneratorState, OpenSequence};
use crate::{Error, Result};

/// Fewest streams that make a shard.
const LANE: usize = 4;

impl GeneratorState {
    /// [`fork`](Self::fork) into shards for [`ShardThreads`]: at most one a thread, none of fewer than four streams unless there
    /// is only one; one on a GPU.
    ///
    /// # Errors
    /// This is the state of several streams.
    pub fn fork_shards(&self, streams: usize) -> Result<Vec<Self>> {
        let shards = match self.on_cpu() {
            true => (streams / LANE).clamp(1, threads()),
            false => 1,
        };
        (0..shards)
            .map(|shard| self.fork((shard + 1) * streams / shards - shard * streams / shards))
            .collect()
    }

    fn on_cpu(&self) -> bool {
        let slots = |open: &OpenSequence| (0..open.state.slots()).find_map(|slot| open.state.get(slot).cloned());
        let held = self.sequences.iter().find_map(slots);
        held.is_none_or(|tensor| tensor.device().is_cpu())
    }
}

/// Threads for shards, kept from turn to turn.
///
/// Where there are as many shards as threads or more, each shard has a pool of one thread: loops within its steps stay there, and are not
/// cut for threads that have shards of their own.
///
/// ```no_run
/// # use mblm::generate::{Generator, GeneratorState, ShardThreads};
/// # fn example(generator: &Generator, state: &GeneratorState) -> mblm::Result<()> {
/// let mut shards = state.fork_shards(16)?;
/// let threads = ShardThreads::new(shards.len())?;
/// threads.side_by_side(&mut shards, |shard| generator.step(shard, &vec![b'a'.into(); shard.streams()]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ShardThreads {
    /// One for each shard, or none.
    pools: Vec<ThreadPool>,
}

impl ShardThreads {
    /// For so many shards.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn new(shards: usize) -> Result<Self> {
        let pools = match shards > 1 && shards >= threads() {
            true => shards,
            false => 0,
        };
        let pools = (0..pools).map(|_| ThreadPoolBuilder::new().num_threads(1).build());
        let pools = pools.collect::<Result<_, _>>().map_err(|error| {
            Error::input(format!(
                "cannot start a thread for each of {shards} shards of streams: {error}; set RAYON_NUM_THREADS to fewer"
            ))
        })?;
        Ok(Self { pools })
    }

    /// Calls `work` for every shard, each on a thread of its own as far as there are threads: its results in order.
    pub fn side_by_side<L: Send, R: Send>(&self, shards: &mut [L], work: impl Fn(&mut L) -> R + Send + Sync) -> Vec<R> {
        if self.pools.len() < shards.len() {
            return on_workers(|| par_map(shards.iter_mut().collect(), true, |_, shard| work(shard)));
        }
        let mut results: Vec<Option<R>> = shards.iter().map(|_| None).collect();
        spread(&self.pools, shards, &mut results, &work);
        results.into_iter().flatten().collect() // none is missing: `spread` has filled one for each shard
    }
}

/// Works on the first shard in the first pool, meanwhile on the others in theirs, and waits for all.
fn spread<L: Send, R: Send>(
    pools: &[ThreadPool],
    shards: &mut [L],
    results: &mut [Option<R>],
    work: &(impl Fn(&mut L) -> R + Sync),
) {
    if let ([pool, pools @ ..], [shard, shards @ ..], [result, results @ ..]) = (pools, shards, results) {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| *result = Some(work(shard)));
            spread(pools, shards, results, work);
        });
    }
}
