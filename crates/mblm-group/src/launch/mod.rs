//! The launch: which rank this process is, read from the variables that launchers set.
//!
//! | set | rank, size, rank on the host | launcher |
//! |---|---|---|
//! | 1 | `RANK`, `WORLD_SIZE`, `LOCAL_RANK` or 0 | torchrun, a PyTorchJob |
//! | 2 | `OMPI_COMM_WORLD_RANK`, `…_SIZE`, `…_LOCAL_RANK` | mpirun of Open MPI |
//! | 3 | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID` | mpirun of MPICH and Intel MPI |
//! | 4 | `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`, only beside `SLURM_STEP_ID` | srun |
//!
//! The first set counts; every other set must agree with it. `PMIX_RANK` has no size: it says that
//! MPI was launched, by srun if set 4 alone is there. A batch script without srun has the
//! variables of set 4 but no `SLURM_STEP_ID`; it is no rank.
//!
//! A set that belongs to the launcher of the launcher is not compared: all others if torchrun has
//! set `TORCHELASTIC_RUN_ID`, and a SLURM step with one task on each node and fewer tasks than
//! ranks, which started torchrun or MPI's daemons.
//!
//! All functions are pure: they read variables through a function.

mod address;
mod set;

use candle_core::{Result, bail};

pub use address::{attempt_name, nccl_address};
pub use set::LaunchedBy;
use set::{Set, number};

/// The rank of this process in its job, of at least two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The number of this rank, from 0.
    pub rank: usize,
    /// The number of ranks.
    pub size: usize,
    /// The number of this rank among those on its host, from 0.
    pub local_rank: usize,
    /// The number of ranks on its host, if the launcher tells it.
    pub local_size: Option<usize>,
    /// Who launched the ranks.
    pub engine: LaunchedBy,
}

impl Launch {
    /// Reads the launch from the environment; `variable` returns the value of a variable.
    ///
    /// Without a launcher, or with one rank, there is no launch.
    ///
    /// # Errors
    /// A part of a set is missing; a value is no number, or a rank is not below its size; two sets
    /// disagree. The error names the variables.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let sets = set::all(&variable)?;
        let Some(first) = sets.first() else {
            return Ok(None);
        };
        for other in &sets[1..] {
            if !is_outer_launcher(first, other, &variable)? {
                agree(first, other)?;
            }
        }
        if let Some(rank) = number("PMIX_RANK", &variable)?
            && rank != first.rank
            && !is_torchrun(first, &variable)
        {
            bail!(
                "launch: expected the same rank from all launchers, found {}={} and PMIX_RANK={rank}; unset one of them",
                first.names.rank,
                first.rank
            );
        }
        let local_sizes = [first.names.local_size, "SLURM_NTASKS_PER_NODE"];
        // srun's number of ranks on a host is not mpirun's
        let known = if first.local_from_slurm {
            &local_sizes[..]
        } else {
            &local_sizes[..1]
        };
        let mut local_size = None;
        for name in known {
            local_size = local_size.or(number(name, &variable)?.filter(|&count| count > first.local_rank));
        }
        Ok((first.size > 1).then_some(Self {
            rank: first.rank,
            size: first.size,
            local_rank: first.local_rank,
            local_size,
            engine: first.names.engine,
        }))
    }
}

/// The number of threads of a rank: `told` if the user sets it; all `cores` if the launcher bound
/// the rank to cores of its own; otherwise an equal share of the host's `cores`.
///
/// An unknown `local_size` counts as one rank. There is at least one thread.
pub fn threads_per_rank(cores: usize, local_size: Option<usize>, pinned: bool, told: Option<usize>) -> usize {
    let share = match pinned {
        true => cores,
        false => cores / local_size.unwrap_or(1).max(1),
    };
    told.unwrap_or(share).max(1)
}

/// Whether torchrun itself, and not a user, set the first set.
fn is_torchrun(first: &Set, variable: &impl Fn(&str) -> Option<String>) -> bool {
    first.names.engine == LaunchedBy::Torchrun && variable("TORCHELASTIC_RUN_ID").is_some()
}

/// Whether `other` launched the launcher of `first`.
fn is_outer_launcher(first: &Set, other: &Set, variable: &impl Fn(&str) -> Option<String>) -> Result<bool> {
    if is_torchrun(first, variable) {
        return Ok(true);
    }
    let one_on_each_node = other.names.engine == LaunchedBy::Slurm
        && (other.size == 1 || number("SLURM_NNODES", variable)? == Some(other.size));
    Ok(one_on_each_node && other.size < first.size)
}

/// Checks that two sets have the same rank and size.
fn agree(first: &Set, other: &Set) -> Result<()> {
    for (what, (a, x), (b, y)) in [
        ("size", (first.names.size, first.size), (other.names.size, other.size)),
        ("rank", (first.names.rank, first.rank), (other.names.rank, other.rank)),
    ] {
        if x != y {
            bail!("launch: expected the same {what} from all launchers, found {a}={x} and {b}={y}; unset one of them");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
