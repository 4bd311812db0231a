//! Many streams that go on from one state, in lanes that are stepped side by side.
//!
//! A step of a few streams is many short loops, and threads that share each of them wait for each other after each. Lanes share
//! nothing: a thread takes a lane through the whole step. A lane of [`LANE`] streams is wide enough for products of full speed.
//! What a stream gives does not depend on its lane. A GPU takes all streams at once: there they are one lane.

use mblm_ops::cpu::{on_workers, par_map, threads};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::generator::{GeneratorState, OpenSequence};
use crate::{Error, Result};

/// Fewest streams that make a lane.
const LANE: usize = 4;

impl GeneratorState {
    /// [`fork`](Self::fork) into lanes for [`LaneThreads`]: at most one a thread, none of fewer than four streams unless there
    /// is only one; one on a GPU.
    ///
    /// # Errors
    /// This is the state of several streams.
    pub fn fork_lanes(&self, streams: usize) -> Result<Vec<Self>> {
        let lanes = match self.on_cpu() {
            true => (streams / LANE).clamp(1, threads()),
            false => 1,
        };
        (0..lanes)
            .map(|lane| self.fork((lane + 1) * streams / lanes - lane * streams / lanes))
            .collect()
    }

    fn on_cpu(&self) -> bool {
        let slots = |open: &OpenSequence| (0..open.state.slots()).find_map(|slot| open.state.get(slot).cloned());
        let held = self.sequences.iter().find_map(slots);
        held.is_none_or(|tensor| tensor.device().is_cpu())
    }
}

/// Threads for lanes, kept from turn to turn.
///
/// Where there are as many lanes as threads or more, each lane has a pool of one thread: loops within its steps stay there, and are not
/// cut for threads that have lanes of their own.
///
/// ```no_run
/// # use mblm::generate::{Generator, GeneratorState, LaneThreads};
/// # fn example(generator: &Generator<'_>, state: &GeneratorState) -> mblm::Result<()> {
/// let mut lanes = state.fork_lanes(16)?;
/// let threads = LaneThreads::new(lanes.len())?;
/// threads.side_by_side(&mut lanes, |lane| generator.step(lane, &vec![b'a'.into(); lane.streams()]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LaneThreads {
    /// One for each lane, or none.
    pools: Vec<ThreadPool>,
}

impl LaneThreads {
    /// For so many lanes.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn new(lanes: usize) -> Result<Self> {
        let pools = match lanes > 1 && lanes >= threads() {
            true => lanes,
            false => 0,
        };
        let pools = (0..pools).map(|_| ThreadPoolBuilder::new().num_threads(1).build());
        let pools = pools.collect::<Result<_, _>>().map_err(|error| {
            Error::input(format!(
                "cannot start a thread for each of {lanes} lanes of streams: {error}; set RAYON_NUM_THREADS to fewer"
            ))
        })?;
        Ok(Self { pools })
    }

    /// Calls `work` for every lane, each on a thread of its own as far as there are threads: its results in order.
    pub fn side_by_side<L: Send, R: Send>(&self, lanes: &mut [L], work: impl Fn(&mut L) -> R + Send + Sync) -> Vec<R> {
        if self.pools.len() < lanes.len() {
            return on_workers(|| par_map(lanes.iter_mut().collect(), true, |_, lane| work(lane)));
        }
        let mut results: Vec<Option<R>> = lanes.iter().map(|_| None).collect();
        spread(&self.pools, lanes, &mut results, &work);
        results.into_iter().flatten().collect() // none is missing: `spread` has filled one for each lane
    }
}

/// Works on the first lane in the first pool, meanwhile on the others in theirs, and waits for all.
fn spread<L: Send, R: Send>(
    pools: &[ThreadPool],
    lanes: &mut [L],
    results: &mut [Option<R>],
    work: &(impl Fn(&mut L) -> R + Sync),
) {
    if let ([pool, pools @ ..], [lane, lanes @ ..], [result, results @ ..]) = (pools, lanes, results) {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| *result = Some(work(lane)));
            spread(pools, lanes, results, work);
        });
    }
}
