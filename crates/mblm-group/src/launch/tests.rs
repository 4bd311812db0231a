//! Tests of the launch: environments and what they mean, contradictions among them.

use super::*;

/// The variables of a line such as `RANK=1 WORLD_SIZE=2`.
fn variables(line: &str) -> impl Fn(&str) -> Option<String> {
    let pairs: Vec<(String, String)> = line
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    move |name| {
        let mut values = pairs.iter().filter(|(other, _)| other == name);
        values.next().map(|(_, value)| value.clone())
    }
}

const OMPI_1_OF_4: &str =
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2";
const SLURM_1_OF_4: &str = "SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=4 SLURM_LOCALID=1";

#[test]
fn environments_mean_launches() -> Result<()> {
    use LaunchedBy::{Mpi, Slurm, Torchrun};
    type Numbers = (usize, usize, usize, Option<usize>); // rank, size, rank and size on the host
    let table: &[(String, Numbers, LaunchedBy)] = &[
        ("RANK=3 WORLD_SIZE=4".into(), (3, 4, 0, None), Torchrun),
        (
            "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2".into(),
            (3, 4, 1, Some(2)),
            Torchrun,
        ),
        (OMPI_1_OF_4.into(), (1, 4, 1, Some(2)), Mpi),
        (format!("{OMPI_1_OF_4} PMIX_RANK=1"), (1, 4, 1, Some(2)), Mpi),
        (
            "PMI_RANK=2 PMI_SIZE=3 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=1".into(),
            (2, 3, 0, Some(1)),
            Mpi,
        ),
        (
            format!("PMI_RANK=1 PMI_SIZE=4 {SLURM_1_OF_4} SLURM_NTASKS_PER_NODE=2"),
            (1, 4, 1, Some(2)),
            Mpi,
        ),
        (format!("PMIX_RANK=1 {SLURM_1_OF_4}"), (1, 4, 1, None), Mpi),
        (SLURM_1_OF_4.into(), (1, 4, 1, None), Slurm),
        (
            format!("{SLURM_1_OF_4} SLURM_NTASKS_PER_NODE=2"),
            (1, 4, 1, Some(2)),
            Slurm,
        ),
        // several that agree: the first counts
        (format!("RANK=1 WORLD_SIZE=4 {OMPI_1_OF_4}"), (1, 4, 0, None), Torchrun),
        (
            format!("{SLURM_1_OF_4} RANK=1 WORLD_SIZE=4 LOCAL_RANK=1"),
            (1, 4, 1, None),
            Torchrun,
        ),
        // an allocation without srun beside mpirun
        (
            format!("{OMPI_1_OF_4} SLURM_PROCID=0 SLURM_NTASKS=9 SLURM_LOCALID=0"),
            (1, 4, 1, Some(2)),
            Mpi,
        ),
        // srun started a launcher on each node
        (
            "RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 TORCHELASTIC_RUN_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2 \
             SLURM_LOCALID=0"
                .into(),
            (9, 16, 1, None),
            Torchrun,
        ),
        (
            format!("{OMPI_1_OF_4} SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_NNODES=2 SLURM_LOCALID=0"),
            (1, 4, 1, Some(2)),
            Mpi,
        ),
        (
            format!("{OMPI_1_OF_4} SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0"),
            (1, 4, 1, Some(2)),
            Mpi,
        ),
    ];
    for (line, (rank, size, local_rank, local_size), engine) in table {
        let expected = Launch {
            rank: *rank,
            size: *size,
            local_rank: *local_rank,
            local_size: *local_size,
            engine: *engine,
        };
        assert_eq!(Launch::from_env(variables(line))?, Some(expected), "{line}");
    }
    Ok(())
}

#[test]
fn one_rank_is_no_launch() -> Result<()> {
    for line in [
        "",
        "RANK= WORLD_SIZE=",
        "RANK=0 WORLD_SIZE=1",
        "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_LOCAL_RANK=0",
        "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0", // a batch script
        "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0",
        "LOCAL_RANK=1",
    ] {
        assert_eq!(Launch::from_env(variables(line))?, None, "{line}");
    }
    Ok(())
}

#[test]
fn contradictions_name_both() {
    let table: &[(String, [&str; 2])] = &[
        ("RANK=1".into(), ["RANK", "WORLD_SIZE"]),
        ("WORLD_SIZE=2".into(), ["WORLD_SIZE", "RANK"]),
        ("RANK=2 WORLD_SIZE=2".into(), ["RANK", "WORLD_SIZE=2"]),
        ("RANK=one WORLD_SIZE=2".into(), ["RANK", "\"one\""]),
        ("RANK=-1 WORLD_SIZE=2".into(), ["RANK", "\"-1\""]),
        ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1".into(), ["RANK=0", "LOCAL_RANK"]),
        (
            "RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=x".into(),
            ["LOCAL_WORLD_SIZE", "\"x\""],
        ),
        (
            "OMPI_COMM_WORLD_RANK=1".into(),
            ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
        ),
        (
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2".into(),
            ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"],
        ),
        ("PMI_RANK=1 PMI_SIZE=2".into(), ["PMI_RANK", "MPI_LOCALRANKID"]),
        ("PMIX_RANK=1".into(), ["PMIX_RANK", "OMPI_COMM_WORLD_SIZE"]),
        (
            "SLURM_STEP_ID=0 SLURM_PROCID=1".into(),
            ["SLURM_PROCID", "SLURM_NTASKS"],
        ),
        (
            "SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2".into(),
            ["SLURM_PROCID", "SLURM_LOCALID"],
        ),
        ("SLURM_STEP_ID=0".into(), ["SLURM_STEP_ID", "SLURM_PROCID"]),
        (
            format!("RANK=0 WORLD_SIZE=4 {OMPI_1_OF_4}"),
            ["RANK=0", "OMPI_COMM_WORLD_RANK=1"],
        ),
        (
            format!("RANK=0 WORLD_SIZE=1 {OMPI_1_OF_4}"),
            ["WORLD_SIZE=1", "OMPI_COMM_WORLD_SIZE=4"],
        ),
        (
            format!("RANK=1 WORLD_SIZE=8 {SLURM_1_OF_4} SLURM_NNODES=2"),
            ["WORLD_SIZE=8", "SLURM_NTASKS=4"],
        ),
        (
            format!("PMI_RANK=0 PMI_SIZE=4 MPI_LOCALRANKID=0 {SLURM_1_OF_4}"),
            ["PMI_RANK=0", "SLURM_PROCID=1"],
        ),
        (
            format!("PMIX_RANK=2 {OMPI_1_OF_4}"),
            ["OMPI_COMM_WORLD_RANK=1", "PMIX_RANK=2"],
        ),
        (format!("PMIX_RANK=2 {SLURM_1_OF_4}"), ["PMIX_RANK=2", "SLURM_PROCID=1"]),
    ];
    for (line, names) in table {
        let error = match Launch::from_env(variables(line)) {
            Ok(launch) => panic!("{line}: expected an error, found {launch:?}"),
            Err(error) => error.to_string(),
        };
        for name in names {
            assert!(error.contains(name), "{line}: {name} in {error}");
        }
    }
}

#[test]
fn addresses_follow_the_launcher() -> Result<()> {
    let table = [
        ("", None),
        ("MASTER_PORT=29500", None),
        ("MASTER_ADDR=node1 MASTER_PORT=29500", Some("node1:29500")),
        (
            "MASTER_ADDR=node1 MASTER_PORT=29500 TORCHELASTIC_USE_AGENT_STORE=True",
            Some("node1:29501"),
        ),
        (
            "MASTER_ADDR=node1 MASTER_PORT=29500 TORCHELASTIC_USE_AGENT_STORE=False",
            Some("node1:29500"),
        ),
        ("MASTER_ADDR=node1 SLURM_JOB_ID=1234567", Some("node1:19567")),
        ("MASTER_ADDR=node1 MASTER_PORT=7 SLURM_JOB_ID=1234567", Some("node1:7")),
        ("MASTER_ADDR=fe80::1 MASTER_PORT=7", Some("[fe80::1]:7")),
        ("NCCL_COMM_ID=a:1 MASTER_ADDR=node1 MASTER_PORT=7", Some("a:1")),
    ];
    for (line, expected) in table {
        assert_eq!(nccl_address(variables(line))?.as_deref(), expected, "{line}");
    }
    for (line, names) in [
        ("MASTER_ADDR=node1", ["MASTER_PORT", "SLURM_JOB_ID"]),
        ("MASTER_ADDR=node1 MASTER_PORT=65536", ["MASTER_PORT", "65536"]),
        ("MASTER_ADDR=node1 MASTER_PORT=x", ["MASTER_PORT", "\"x\""]),
    ] {
        let error = nccl_address(variables(line)).unwrap_err().to_string();
        assert!(names.iter().all(|name| error.contains(name)), "{line}: {error}");
    }
    Ok(())
}

#[test]
fn attempts_have_names() {
    for (line, expected) in [
        ("", None),
        (
            "TORCHELASTIC_RUN_ID=a/b TORCHELASTIC_RESTART_COUNT=2",
            Some("torchrun-a_b-2"),
        ),
        ("SLURM_JOB_ID=7 SLURM_STEP_ID=1", Some("slurm-7-1-0")),
        (
            "SLURM_JOB_ID=7 SLURM_RESTART_COUNT=3 TORCHELASTIC_RUN_ID=x",
            Some("slurm-7-0-3-x-0"),
        ),
    ] {
        assert_eq!(attempt_name(variables(line)).as_deref(), expected, "{line}");
    }
}

#[test]
fn ranks_share_the_cores() {
    assert_eq!(threads_per_rank(16, Some(4), false, None), 4);
    assert_eq!(threads_per_rank(2, Some(4), false, None), 1);
    assert_eq!(threads_per_rank(16, None, false, None), 16);
    assert_eq!(threads_per_rank(4, Some(4), true, None), 4);
    assert_eq!(threads_per_rank(16, Some(4), false, Some(3)), 3);
    assert_eq!(threads_per_rank(16, Some(0), false, None), 16);
}
