//! One rank of a job that checks an engine: `mpirun -n 2 group_ranks mpi values`.
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
use mblm_group::{Group, Launch, Watched, watchdog};

/// How long a collective of the scenarios without end may take.
const LIMIT: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, scenario] = &arguments[..] else {
        bail!("usage: group_ranks mpi|nccl values|kill|panic|leave|stop");
    };
    let launch = Launch::from_env(|name| std::env::var(name).ok())?;
    match engine.as_str() {
        #[cfg(feature = "mpi")]
        "mpi" => over_mpi(launch, scenario),
        other => bail!("expected an engine of this build, found {other} for {launch:?} and {scenario}"),
    }
}

#[cfg(feature = "mpi")]
fn over_mpi(launch: Option<Launch>, scenario: &str) -> Result<()> {
    let group = mblm_group::Mpi::start(launch.as_ref())?;
    if scenario != "values" {
        return without_end(Arc::new(group), &Device::Cpu, scenario);
    }
    let group = group.with_max_elements(3001); // long tensors are cut, into uneven parts
    values::check(&group, &Device::Cpu)?;
    let group = group.with_max_elements(usize::MAX);
    let hash = values::check(&group, &Device::Cpu)?;
    group.end()?;
    println!("rank {} ok {hash:016x}", group.rank());
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
