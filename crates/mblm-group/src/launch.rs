//! The launch: rank, size and launcher, from the environment of torchrun, MPI launchers or SLURM.
//!
//! | launcher | rank, size | local rank | ranks of the host |
//! |---|---|---|---|
//! | torchrun, PyTorchJob | `RANK`, `WORLD_SIZE` | `LOCAL_RANK`, else 0 | `LOCAL_WORLD_SIZE` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `…_SIZE` | `…_LOCAL_RANK` | `…_LOCAL_SIZE` |
//! | MPICH, Intel MPI | `PMI_RANK`, `PMI_SIZE` | `MPI_LOCALRANKID` | `MPI_LOCALNRANKS` |
//! | srun | `SLURM_PROCID`, `SLURM_NTASKS` | `SLURM_LOCALID` | `SLURM_NTASKS_PER_NODE` |
//!
//! The first set that is there is used. SLURM's variables count only with `SLURM_STEP_ID`: a batch
//! script without srun has the others too, and would wait for ranks that never come.

use candle_core::{Error, Result};

/// The launcher of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, or a Kubernetes PyTorchJob.
    Torchrun,
    /// `mpirun` or `mpiexec`.
    Mpi,
    /// `srun`.
    Slurm,
}

impl Launcher {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torchrun => "torchrun",
            Self::Mpi => "an MPI launcher",
            Self::Slurm => "srun",
        }
    }
}

/// The place of a process among those that were launched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// This process, from 0.
    pub rank: usize,
    /// The number of processes, at least 2.
    pub size: usize,
    /// This process among those of its host, from 0.
    pub local_rank: usize,
    /// The processes of the host, if the launcher tells.
    pub local_size: Option<usize>,
    /// The launcher.
    pub launcher: Launcher,
}

/// The names of the variables of a launcher.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
    /// A variable without which the others mean nothing.
    only_with: Option<&'static str>,
}

const LAUNCHERS: [Names; 4] = [
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
        only_with: None,
    },
    Names {
        launcher: Launcher::Mpi,
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
        only_with: None,
    },
    Names {
        launcher: Launcher::Mpi,
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
        only_with: None,
    },
    Names {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_NTASKS_PER_NODE",
        only_with: Some("SLURM_STEP_ID"),
    },
];

impl Launch {
    /// Reads the environment through `variable`; `None` for a process that was started alone.
    ///
    /// # Errors
    /// A set of variables of which one is missing or is no number, a rank that is not below the
    /// size, and two sets that disagree.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut found: Option<(Self, &Names)> = None;
        for names in &LAUNCHERS {
            if names.only_with.is_some_and(|name| variable(name).is_none()) {
                continue;
            }
            let Some(launch) = Self::of(names, &variable)? else {
                continue;
            };
            match &found {
                None => found = Some((launch, names)),
                // srun sets its variables beside those of the MPI library that it starts
                Some((first, of)) if (first.rank, first.size) != (launch.rank, launch.size) => {
                    return Err(Error::msg(format!(
                        "{}={} and {}={} disagree with {}={} and {}={}: expected the variables of one launcher; unset the others",
                        of.rank, first.rank, of.size, first.size, names.rank, launch.rank, names.size, launch.size
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(found.map(|(launch, _)| launch).filter(|launch| launch.size > 1))
    }

    fn of(names: &Names, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            text.trim().parse().map(Some).map_err(|_| {
                Error::msg(format!(
                    "the environment variable {name} is {text:?}: expected a whole number"
                ))
            })
        };
        let (rank, size) = match (number(names.rank)?, number(names.size)?) {
            (None, None) => return Ok(None),
            (Some(rank), Some(size)) => (rank, size),
            (rank, _) => {
                let (there, missing) = match rank {
                    Some(_) => (names.rank, names.size),
                    None => (names.size, names.rank),
                };
                return Err(Error::msg(format!(
                    "the environment variable {there} is set, and {missing} is not: expected both (of {}) or neither",
                    names.launcher.name()
                )));
            }
        };
        if rank >= size {
            return Err(Error::msg(format!(
                "{}={rank} and {}={size}: expected a rank below the number of processes",
                names.rank, names.size
            )));
        }
        Ok(Some(Self {
            rank,
            size,
            local_rank: number(names.local_rank)?.unwrap_or(0),
            local_size: number(names.local_size).ok().flatten(),
            launcher: names.launcher,
        }))
    }

    /// The share of a host's `cores` for one of its processes, at least 1.
    pub fn threads(&self, cores: usize) -> usize {
        (cores / self.local_size.unwrap_or(self.size).max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::from_env(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    const OMPI: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ];

    #[test]
    fn every_launcher_is_recognized() {
        let found = |variables: &[(&str, &str)]| {
            let launch = launch(variables).unwrap().unwrap();
            (
                launch.launcher,
                launch.rank,
                launch.size,
                launch.local_rank,
                launch.local_size,
            )
        };
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "3")];
        assert_eq!(found(&torchrun), (Launcher::Torchrun, 3, 8, 3, None));
        assert_eq!(found(&torchrun[..2]), (Launcher::Torchrun, 3, 8, 0, None));
        assert_eq!(found(&OMPI), (Launcher::Mpi, 1, 4, 1, Some(2)));
        let mpich = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0")];
        assert_eq!(found(&mpich), (Launcher::Mpi, 0, 2, 0, None));
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "6"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_ID", "0"),
        ];
        assert_eq!(found(&slurm), (Launcher::Slurm, 5, 6, 1, None));
        // srun that starts an MPI program sets both
        let both = [
            &OMPI[..],
            &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4"), ("SLURM_STEP_ID", "0")],
        ]
        .concat();
        assert_eq!(found(&both).0, Launcher::Mpi);
    }

    #[test]
    fn a_process_alone_has_no_launch() {
        assert_eq!(launch(&[]).unwrap(), None);
        assert_eq!(launch(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        // a batch script without srun
        assert_eq!(launch(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap(), None);
    }

    #[test]
    fn contradictions_name_the_variables() {
        for (variables, parts) in [
            (&[("RANK", "1")][..], &["RANK is set", "WORLD_SIZE is not"][..]),
            (&[("WORLD_SIZE", "2")], &["WORLD_SIZE is set", "RANK is not"]),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK=2", "below"]),
            (
                &[("RANK", "one"), ("WORLD_SIZE", "2")],
                &["RANK is \"one\"", "whole number"],
            ),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")],
                &["RANK=0", "PMI_RANK=1", "one launcher"],
            ),
        ] {
            let error = launch(variables).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn processes_share_the_cores_of_their_host() {
        let launch = launch(&OMPI).unwrap().unwrap();
        assert_eq!((launch.threads(16), launch.threads(1)), (8, 1));
    }
}
