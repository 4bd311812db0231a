//! Many streams that continue one state, in shards that run side by side.
//!
//! A step of a few streams is many short loops, and threads that share each loop wait for each
//! other after each. Shards share nothing: a thread takes a shard through the whole step. [`LANE`]
//! streams are enough for products at full speed. A stream's output does not depend on its shard. A
//! GPU runs all streams at once, as one shard.

use mblm_ops::cpu::{on_workers, par_map, threads};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::generator::{GeneratorState, OpenSequence};
use crate::{Error, Result};

/// The fewest streams of a shard.
const LANE: usize = 4;

impl GeneratorState {
    /// [`fork`](Self::fork) into shards for [`ShardThreads`]: at most one per thread, each of at
    /// least four streams if there are several; one on a GPU.
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

/// The threads of shards, reused from turn to turn.
///
/// With at least as many shards as threads, each shard has a pool of one thread, so that its loops
/// are not split among threads that run other shards.
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
    /// One pool per shard, or none.
    pools: Vec<ThreadPool>,
}

impl ShardThreads {
    /// Creates threads for `shards` shards.
    ///
    /// # Errors
    /// The system cannot start more threads.
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

    /// Calls `work` for every shard, on separate threads if possible; results are in order.
    pub fn side_by_side<L: Send, R: Send>(&self, shards: &mut [L], work: impl Fn(&mut L) -> R + Send + Sync) -> Vec<R> {
        if self.pools.len() < shards.len() {
            return on_workers(|| par_map(shards.iter_mut().collect(), true, |_, shard| work(shard)));
        }
        let mut results: Vec<Option<R>> = shards.iter().map(|_| None).collect();
        spread(&self.pools, shards, &mut results, &work);
        results.into_iter().flatten().collect() // `spread` has filled one result per shard
    }
}

/// Runs each shard in its own pool, all at once, and waits for all.
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
