//! The sets of variables: names, numbers, and which parts must be there.

use candle_core::{Result, bail};

/// Who launched the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchedBy {
    /// torchrun or another launcher that sets `RANK` and `WORLD_SIZE`.
    Torchrun,
    /// An MPI launcher: mpirun, or srun with PMI.
    Mpi,
    /// srun without PMI.
    Slurm,
}

/// The names of a launcher's variables.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) rank: &'static str,
    pub(super) size: &'static str,
    pub(super) local_rank: &'static str,
    pub(super) local_size: &'static str,
    pub(super) engine: LaunchedBy,
}

/// The numbers in a launcher's variables.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) names: &'static Names,
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) local_rank: usize,
    /// Whether SLURM counts the ranks of a host.
    pub(super) local_from_slurm: bool,
}

const TORCHRUN: Names = Names {
    rank: "RANK",
    size: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_size: "LOCAL_WORLD_SIZE",
    engine: LaunchedBy::Torchrun,
};
const OPEN_MPI: Names = Names {
    rank: "OMPI_COMM_WORLD_RANK",
    size: "OMPI_COMM_WORLD_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    engine: LaunchedBy::Mpi,
};
const PMI: Names = Names {
    rank: "PMI_RANK",
    size: "PMI_SIZE",
    local_rank: "MPI_LOCALRANKID",
    local_size: "MPI_LOCALNRANKS",
    engine: LaunchedBy::Mpi,
};
/// srun with PMIx: the size is SLURM's.
const PMIX: Names = Names {
    rank: "PMIX_RANK",
    size: "SLURM_NTASKS",
    local_rank: "SLURM_LOCALID",
    local_size: "SLURM_NTASKS_PER_NODE",
    engine: LaunchedBy::Mpi,
};
const SLURM: Names = Names {
    rank: "SLURM_PROCID",
    size: "SLURM_NTASKS",
    local_rank: "SLURM_LOCALID",
    local_size: "SLURM_NTASKS_PER_NODE",
    engine: LaunchedBy::Slurm,
};

/// The complete sets of the environment, in the order in which they count.
pub(super) fn all(variable: &impl Fn(&str) -> Option<String>) -> Result<Vec<Set>> {
    let in_step = variable("SLURM_STEP_ID").is_some();
    let mut sets = Vec::new();
    for names in [&TORCHRUN, &OPEN_MPI, &PMI] {
        if let Some(set) = read(names, in_step, variable)? {
            sets.push(set);
        }
    }
    let by_mpi = sets.iter().any(|set| set.names.engine == LaunchedBy::Mpi);
    if variable("PMIX_RANK").is_some() && !by_mpi {
        if !in_step && sets.is_empty() {
            bail!(
                "launch: PMIX_RANK is set, but no size: expected OMPI_COMM_WORLD_SIZE, or SLURM_NTASKS and SLURM_STEP_ID"
            );
        }
        if in_step && let Some(set) = read(&PMIX, in_step, variable)? {
            sets.push(set);
        }
    }
    if in_step {
        match read(&SLURM, in_step, variable)? {
            Some(set) => sets.push(set),
            None if sets.is_empty() => {
                bail!("launch: SLURM_STEP_ID is set, but neither SLURM_PROCID nor SLURM_NTASKS")
            }
            None => {}
        }
    }
    Ok(sets)
}

/// The set with these names, if one of its variables is there.
fn read(names: &'static Names, in_step: bool, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Set>> {
    let (rank, size) = match (number(names.rank, variable)?, number(names.size, variable)?) {
        (Some(rank), Some(size)) => (rank, size),
        (None, None) => return Ok(None),
        (Some(_), None) => bail!("launch: {} is set, but {} is not", names.rank, names.size),
        (None, Some(_)) => bail!("launch: {} is set, but {} is not", names.size, names.rank),
    };
    if rank >= size {
        bail!(
            "launch: expected {} below {}={size}, found {rank}",
            names.rank,
            names.size
        );
    }
    // srun with PMI leaves the numbers on the host to SLURM
    let of_host = number(names.local_rank, variable)?;
    let of_slurm = match in_step && names.rank == PMI.rank {
        true => number(SLURM.local_rank, variable)?,
        false => None,
    };
    let local_rank = match of_host.or(of_slurm) {
        Some(local_rank) => local_rank,
        None if names.engine == LaunchedBy::Torchrun => 0,
        None => bail!("launch: {} is set, but {} is not", names.rank, names.local_rank),
    };
    if local_rank > rank {
        bail!(
            "launch: expected {} of at most {}={rank}, found {local_rank}",
            names.local_rank,
            names.rank
        );
    }
    Ok(Some(Set {
        names,
        rank,
        size,
        local_rank,
        local_from_slurm: of_host.is_none() && of_slurm.is_some(),
    }))
}

/// The number in a variable.
pub(super) fn number(name: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<usize>> {
    let Some(value) = variable(name) else {
        return Ok(None);
    };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => bail!("launch: expected a number in {name}, found {value:?}"),
    }
}
