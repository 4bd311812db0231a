//! Many streams that go on from one state, in lanes that are stepped side by side.
//!
//! A step of a few streams is many short loops, and threads that share each of them wait for each other after each. Lanes share
//! nothing: a thread takes a lane through the whole step. A lane of [`LANE`] streams is wide enough for products of full speed.
//! What a stream gives does not depend on its lane. A GPU takes all streams at once: there they are one lane.

use mblm_ops::cpu::{alone, on_workers, par_map, threads};

use super::generator::{GeneratorState, OpenSequence};
use crate::Result;

/// Fewest streams that make a lane.
const LANE: usize = 4;

impl GeneratorState {
    /// [`fork`](Self::fork) into lanes for [`side_by_side`]: at most one a thread, none of fewer than four streams unless there
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

/// Calls `work` for every lane, each on a thread of its own as far as there are threads: its results in order.
///
/// ```no_run
/// # use mblm::generate::{Generator, GeneratorState, side_by_side};
/// # fn example(generator: &Generator<'_>, state: &GeneratorState) -> mblm::Result<()> {
/// let mut lanes = state.fork_lanes(16)?;
/// side_by_side(&mut lanes, |lane| generator.step(lane, &vec![b'a'.into(); lane.streams()]));
/// # Ok(())
/// # }
/// ```
pub fn side_by_side<L: Send, R: Send>(lanes: &mut [L], work: impl Fn(&mut L) -> R + Send + Sync) -> Vec<R> {
    let each_has_a_thread = lanes.len() > 1 && lanes.len() >= threads();
    let work = |_, lane| match each_has_a_thread {
        true => alone(|| work(lane)),
        false => work(lane),
    };
    on_workers(|| par_map(lanes.iter_mut().collect(), true, work))
}
