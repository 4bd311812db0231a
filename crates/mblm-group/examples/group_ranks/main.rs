//! One rank of a job that checks an engine: `mpirun -n 2 group_ranks mpi values`, or for each rank
//! `RANK=0 WORLD_SIZE=2 NCCL_COMM_ID=127.0.0.1:15000 group_ranks nccl values`.
//!
//! Two ranks on one GPU need another `NCCL_HOSTID` each, and `NCCL_SOCKET_IFNAME=lo`. With
//! `RENDEZVOUS=PATH` the ranks share NCCL's id through a file instead.
//!
//! | scenario | each rank | rank 1 |
//! |---|---|---|
//! | `values` | compares every collective with its definition, prints `rank R ok HASH` | the same |
//! | `kill`, `panic`, `leave`, `stop` | adds numbers up without end, watched for 5 s | after three steps: kills itself, panics, returns, stops itself |
//!
//! `HASH` is of the bits of all results; the ranks compare it.

mod values;

use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Result, Tensor, bail};
use mblm_group::{Alone, Group, Launch, Watched, watchdog};

/// How long a collective of the scenarios without end may take.
const LIMIT: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, scenario] = &arguments[..] else {
        bail!("usage: group_ranks alone|mpi|nccl values|kill|panic|leave|stop");
    };
    let launch = Launch::from_env(|name| std::env::var(name).ok())?;
    match engine.as_str() {
        "alone" => finish(Arc::new(Alone), &Device::Cpu, scenario),
        #[cfg(feature = "mpi")]
        "mpi" => over_mpi(launch, scenario),
        #[cfg(feature = "nccl")]
        "nccl" => over_nccl(launch, scenario),
        other => bail!("expected an engine of this build, found {other} for {launch:?} and {scenario}"),
    }
}

#[cfg(feature = "mpi")]
fn over_mpi(launch: Option<Launch>, scenario: &str) -> Result<()> {
    let group = mblm_group::Mpi::start(launch.as_ref())?;
    if scenario != "values" {
        return finish(Arc::new(group), &Device::Cpu, scenario);
    }
    let group = group.with_max_elements(3001); // long tensors are cut, into uneven parts
    values::check(&group, &Device::Cpu)?;
    finish(Arc::new(group.with_max_elements(usize::MAX)), &Device::Cpu, scenario)
}

#[cfg(feature = "nccl")]
fn over_nccl(launch: Option<Launch>, scenario: &str) -> Result<()> {
    use mblm_group::nccl::Id;

    let Some(launch) = launch else {
        bail!("expected RANK and WORLD_SIZE of at least two ranks");
    };
    let count = cudarc::driver::CudaContext::device_count().map_err(candle_core::Error::wrap)?;
    let device = Device::new_cuda_with_stream(if count == 1 { 0 } else { launch.local_rank })?;
    let limit = Duration::from_secs(60);
    let (id, file) = match std::env::var_os("RENDEZVOUS") {
        Some(path) => {
            let deadline = std::time::Instant::now() + limit;
            let (id, file) = Id::through_file(path.as_ref(), launch.rank, "ranks", deadline)?;
            (id, Some(file))
        }
        None => (Id::new()?, None),
    };
    let start = std::time::Instant::now();
    let group = mblm_group::Nccl::new(&device, launch.rank, launch.size, &id, limit)?;
    eprintln!("rank {}: init took {:?}", launch.rank, start.elapsed());
    drop(file);
    finish(Arc::new(group), &device, scenario)
}

/// Checks the values and ends the group, or runs a scenario without end.
fn finish(group: Arc<dyn Group>, device: &Device, scenario: &str) -> Result<()> {
    if scenario != "values" {
        return without_end(group, device, scenario);
    }
    let start = std::time::Instant::now();
    let hash = values::check(&*group, device)?;
    group.end()?;
    println!("rank {} ok {hash:016x}", group.rank());
    eprintln!("rank {}: checks took {:?}", group.rank(), start.elapsed());
    Ok(())
}

/// Adds numbers up until rank 1 does what the scenario says; the watchdog ends the others.
fn without_end(group: Arc<dyn Group>, device: &Device, scenario: &str) -> Result<()> {
    let rank = group.rank();
    let action = watchdog::end_process(&group);
    let group = Watched::new(group, LIMIT, action);
    for step in 0.. {
        group.at_step(step);
        group.last_state("no state is whole");
        let sum = group.all_reduce(&Tensor::ones(1000, candle_core::DType::F32, device)?)?;
        let value = sum.to_vec1::<f32>()?[999];
        if value != group.size() as f32 {
            bail!("expected {}, found {value}", group.size());
        }
        group.gather(&[1])?;
        if rank == 1 && step == 3 {
            match scenario {
                "kill" => raise(libc::SIGKILL),
                "stop" => raise(libc::SIGSTOP),
                "panic" => panic!("as the scenario says"),
                "leave" => return Ok(()),
                other => bail!("expected a scenario, found {other}"),
            }
        }
    }
    Ok(())
}

fn raise(signal: i32) {
    // SAFETY: `raise` takes any number and has no memory.
    unsafe { libc::raise(signal) };
}
