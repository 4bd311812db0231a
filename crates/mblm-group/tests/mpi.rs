//! MPI between real processes, under `mpirun` (feature `mpi`): values, bits, and failures that end
//! the whole job.
#![cfg(feature = "mpi")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use mblm_group::{Group, Mpi};

/// The variable that says what a rank does.
const WHAT: &str = "MBLM_GROUP_TEST";

/// Runs the test `rank` on `ranks` processes.
fn mpirun(ranks: usize, what: &str) -> (Output, Duration) {
    let program = std::env::current_exe().unwrap();
    let begun = Instant::now();
    let output = Command::new("mpirun")
        .args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"])
        .arg(&program)
        .args(["rank", "--exact", "--ignored", "--nocapture"])
        .env(WHAT, what)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("mpirun starts: install it with `apt-get install openmpi-bin libopenmpi-dev`");
    (output, begun.elapsed())
}

#[test]
fn collectives_are_right_on_two_three_and_four_processes() {
    for ranks in [2, 3, 4] {
        let (output, _) = mpirun(ranks, "all");
        assert!(output.status.success(), "{ranks} ranks: {output:?}");
    }
}

#[test]
fn a_rank_that_fails_ends_the_job() {
    for failure in ["panic", "leave"] {
        let (output, time) = mpirun(2, failure);
        assert!(!output.status.success(), "{failure}: {output:?}");
        assert!(time < Duration::from_secs(30), "{failure}: {time:?}");
    }
}

/// A rank, which the other tests start under mpirun.
#[test]
#[ignore = "the other tests start it under mpirun"]
fn rank() {
    let group = Mpi::start().unwrap();
    match std::env::var(WHAT).as_deref() {
        Ok("all") => all(&group).unwrap(),
        Ok("panic") if group.rank() == 1 => panic!("on purpose"),
        Ok("leave") if group.rank() == 1 => group.abort(7),
        _ => group.barrier().unwrap(),
    }
    group.end().unwrap();
}

/// Checks every collective against what the ranks must have passed.
fn all(group: &dyn Group) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    for dtype in [DType::F32, DType::F64] {
        let values: Vec<f64> = (0..2 * size).map(|index| 0.1 * (index + 10 * rank) as f64).collect();
        let own = Tensor::new(&values[..], &Device::Cpu)?.to_dtype(dtype)?;
        let part = group.reduce_scatter(&own)?;
        let joined = group.all_gather(&part)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        for (index, found) in joined.iter().enumerate() {
            let expected = 0.1 * (index * size + 10 * (size * (size - 1) / 2)) as f64;
            assert!((found - expected).abs() < 1e-5, "{index}: {found} {expected}");
        }
        // the same bits on all ranks, and again
        let long: Vec<f64> = (0..100_003)
            .map(|index| ((index * 7919 + rank * 31) % 1013) as f64 / 1013.0)
            .collect();
        let long = Tensor::new(&long[..], &Device::Cpu)?.to_dtype(dtype)?;
        let bits = |sum: Tensor| -> Result<Vec<u8>> {
            let values = sum.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            Ok(values.into_iter().flat_map(f64::to_le_bytes).collect())
        };
        let first = bits(group.all_reduce(&long)?)?;
        assert_eq!(first, bits(group.all_reduce(&long)?)?, "the same bits twice");
        assert!(
            group.gather(&first)?.iter().all(|other| *other == first),
            "the same bits on all ranks"
        );
        if rank > 0 {
            let found = group.receive(rank - 1, &own)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            assert!((found[0] - (rank - 1) as f64).abs() < 1e-6);
        }
        if rank + 1 < size {
            group.send(
                rank + 1,
                &Tensor::full(rank as f64, 2 * size, &Device::Cpu)?.to_dtype(dtype)?,
            )?;
        }
    }
    let records = group.gather(&vec![rank as u8; rank])?;
    assert!(
        records
            .iter()
            .enumerate()
            .all(|(of, record)| *record == vec![of as u8; of])
    );
    assert_eq!(
        group.broadcast(size - 1, &vec![rank as u8; 3 * rank])?,
        vec![size as u8 - 1; 3 * (size - 1)]
    );
    let half = group.split(rank % 2)?;
    assert_eq!((half.rank(), half.size()), (rank / 2, (size + 1 - rank % 2) / 2));
    let sum = half
        .all_reduce(&Tensor::ones(3, DType::F32, &Device::Cpu)?)?
        .to_vec1::<f32>()?;
    assert_eq!(sum, [half.size() as f32; 3]);
    assert!(
        group
            .reduce_scatter(&Tensor::ones(size + 1, DType::F32, &Device::Cpu)?)
            .is_err()
            || size == 1
    );
    Ok(())
}
