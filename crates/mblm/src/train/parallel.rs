//! Training on several ranks: the workers of each rank, the record that the ranks exchange after
//! each batch, and the sum of their gradients.
//!
//! With W workers and R ranks, R a divisor of W, rank r computes the workers r·W/R … (r+1)·W/R − 1
//! one after another into the same gradients, scaled by 1/(W·k). The gradients of a step are added
//! up over the ranks in buckets of at least 64 MiB, and every rank takes the same step: all
//! replicas keep the same bits. A group of one rank exchanges nothing.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use mblm_group::buckets::{Buckets, MIN_ELEMENTS};
use mblm_group::{Alone, Group};
use mblm_ops::GradBuffer;
use serde::{Deserialize, Serialize};

use crate::data::hash::key;
use crate::model::{Gradients, Loss};
use crate::{Error, Result};

/// The ranks of a run, of which this process is one.
#[derive(Clone)]
pub(super) struct Peers {
    group: Arc<dyn Group>,
}

/// What a rank tells the others after its passes over a batch.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// The losses of its workers.
    pub(super) losses: Vec<WorkerLoss>,
    /// The message of a failure.
    pub(super) error: Option<String>,
    /// Whether the rank gave its batch up, and all ranks drop the batch.
    pub(super) dropped: bool,
    /// Whether the rank was asked to stop.
    pub(super) stop: bool,
    /// Whether a state should be saved soon, by the clock of rank 0.
    pub(super) save: bool,
}

/// A loss whose mean keeps its bits, also if it is not finite.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WorkerLoss {
    mean: u64,
    count: usize,
    weighted: bool,
}

impl From<Loss> for WorkerLoss {
    fn from(loss: Loss) -> Self {
        Self {
            mean: loss.mean.to_bits(),
            count: loss.count,
            weighted: loss.weighted,
        }
    }
}

impl From<WorkerLoss> for Loss {
    fn from(loss: WorkerLoss) -> Self {
        Self {
            mean: f64::from_bits(loss.mean),
            count: loss.count,
            weighted: loss.weighted,
        }
    }
}

/// What all ranks know after the exchange.
#[derive(Debug)]
pub(super) struct Agreed {
    /// The losses of all workers, in order.
    pub(super) losses: Vec<Loss>,
    /// Whether a rank gave its batch up.
    pub(super) dropped: bool,
    /// Whether a rank was asked to stop.
    pub(super) stop: bool,
    /// Whether rank 0 wants a state to be saved.
    pub(super) save: bool,
}

impl Default for Peers {
    fn default() -> Self {
        Self { group: Arc::new(Alone) }
    }
}

impl Peers {
    pub(super) fn new(group: Arc<dyn Group>) -> Self {
        Self { group }
    }

    pub(super) fn group(&self) -> &dyn Group {
        &*self.group
    }

    /// Whether this rank writes the files of the run.
    pub(super) fn writes(&self) -> bool {
        self.group.rank() == 0
    }

    /// Whether this process computes everything.
    pub(super) fn alone(&self) -> bool {
        self.group.size() == 1
    }

    /// Exchanges the records of all ranks.
    ///
    /// # Errors
    /// The message of the lowest rank that failed; another rank has ended.
    pub(super) fn exchange(&self, own: Told) -> Result<Agreed> {
        let told: Vec<Told> = match self.alone() {
            true => vec![own],
            false => self.gather(&own)?,
        };
        if let Some((rank, message)) =
            (told.iter().enumerate()).find_map(|(rank, told)| Some((rank, told.error.as_ref()?)))
        {
            return Err(Error::input(format!("rank {rank}: {message}")));
        }
        let any = |asked: fn(&Told) -> bool| told.iter().any(asked);
        Ok(Agreed {
            dropped: any(|told| told.dropped),
            stop: any(|told| told.stop),
            save: told.first().is_some_and(|told| told.save),
            losses: told.into_iter().flat_map(|told| told.losses).map(Loss::from).collect(),
        })
    }

    /// Gathers a record of each rank.
    ///
    /// # Errors
    /// Another rank has ended, or is of another version.
    pub(super) fn gather<T: Serialize + for<'a> Deserialize<'a>>(&self, own: &T) -> Result<Vec<T>> {
        let own = serde_json::to_vec(own).map_err(unreadable)?;
        let records = self.group.gather(&own)?;
        records
            .iter()
            .map(|record| serde_json::from_slice(record).map_err(unreadable))
            .collect()
    }

    /// Returns the record of rank 0, which `own` makes there, on all ranks.
    ///
    /// # Errors
    /// Another rank has ended, or is of another version.
    pub(super) fn broadcast<T: Serialize + for<'a> Deserialize<'a>>(&self, own: impl FnOnce() -> T) -> Result<T> {
        if self.alone() {
            return Ok(own());
        }
        let record = match self.writes() {
            true => serde_json::to_vec(&own()).map_err(unreadable)?,
            false => Vec::new(),
        };
        serde_json::from_slice(&self.group.broadcast(0, &record)?).map_err(unreadable)
    }

    /// Replaces the gradients by their sums over all ranks, in buckets.
    ///
    /// # Errors
    /// Another rank has ended; a device without memory for a bucket.
    pub(super) fn add_up(&self, gradients: &mut Gradients) -> Result<()> {
        if self.alone() {
            return Ok(());
        }
        let counts: Vec<usize> = gradients.iter().map(|buffer| buffer.tensor().elem_count()).collect();
        let buckets = Buckets::new(&counts, self.group.size(), MIN_ELEMENTS);
        for bucket in 0..buckets.len() {
            let parameters = buckets.parameters(bucket);
            let own = gradients.iter().skip(parameters.start).map(GradBuffer::tensor);
            let own: Vec<&Tensor> = own.take(parameters.len()).collect();
            let packed = buckets.pack(bucket, |parameter| Ok(own[parameter - parameters.start].clone()))?;
            let sum = self.group.all_reduce(&packed)?;
            let mut buffers = gradients.iter_mut().skip(parameters.start);
            // parameters come in order
            buckets.unpack(bucket, &sum, |_, sum| {
                buffers.next().map_or(Ok(()), |buffer| buffer.replace(&sum))
            })?;
        }
        Ok(())
    }

    /// Returns for each gradient whether a rank has added to it.
    ///
    /// # Errors
    /// Another rank has ended.
    pub(super) fn touched(&self, gradients: &Gradients) -> Result<Vec<bool>> {
        let own: Vec<bool> = gradients.iter().map(|buffer| buffer.is_touched()).collect();
        if self.alone() {
            return Ok(own);
        }
        let all = self.gather(&own)?;
        Ok((0..own.len()).map(|index| all.iter().any(|rank| rank[index])).collect())
    }
}

/// Returns the workers that this rank of a group computes, of `workers` in all.
///
/// # Errors
/// A number of workers that the number of ranks does not divide.
pub fn workers_of(group: &dyn Group, workers: usize) -> Result<Range<usize>> {
    let (rank, ranks) = (group.rank(), group.size());
    if !workers.is_multiple_of(ranks) {
        let fitting: Vec<String> = (1..=workers)
            .filter(|ranks| workers.is_multiple_of(*ranks))
            .map(|ranks| ranks.to_string())
            .collect();
        return Err(Error::config(format!(
            "train.workers is {workers}: expected a multiple of the {ranks} processes; start {} of them",
            fitting.join(", ")
        )));
    }
    let each = workers / ranks;
    Ok(rank * each..(rank + 1) * each)
}

/// The seed of one worker. The first has the run's own.
pub(super) fn worker_seed(seed: u64, worker: usize) -> u64 {
    match worker {
        0 => seed,
        worker => key(&[seed, worker as u64]),
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::input(format!(
        "a record of another rank cannot be read ({error}): expected all ranks to run the same version of the program"
    ))
}
