//! Launches the example `group_ranks` under mpirun: values, bits, and the end of jobs whose rank 1
//! fails.
//!
//! `cargo test -p mblm-group --features mpi` builds the example too; `--test mpi` alone does not.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a job may live after rank 1 has failed, its start included.
const FAILED_LIMIT: Duration = Duration::from_secs(10);

/// One job at a time: the times count.
static TURN: Mutex<()> = Mutex::new(());

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    time: Duration,
}

/// The example beside this test: `cargo test` builds both.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.ancestors().nth(2).expect("a folder above deps");
    let program = folder.join("examples").join("group_ranks");
    assert!(
        program.exists(),
        "{} is missing: run cargo build -p mblm-group --features mpi --examples",
        program.display()
    );
    program
}

/// Runs a command to its end, at most a minute.
fn run(command: &mut Command) -> Outcome {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let start = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!(
            "{command:?}: {error}; run apt-get install --no-install-recommends libopenmpi-dev openmpi-bin libclang-dev"
        )
    });
    let (mut out, mut err) = (
        child.stdout.take().expect("a pipe"),
        child.stderr.take().expect("a pipe"),
    );
    let reader = |pipe: &mut dyn Read| {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).expect("the output");
        String::from_utf8_lossy(&text).into_owned()
    };
    std::thread::scope(|scope| {
        let stdout = scope.spawn(move || reader(&mut out));
        let stderr = scope.spawn(move || reader(&mut err));
        let status = loop {
            if let Some(status) = child.try_wait().expect("the job's status") {
                break Some(status);
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().expect("the launcher ends");
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let time = start.elapsed();
        let stdout = stdout.join().expect("the output");
        let stderr = stderr.join().expect("the output");
        let Some(status) = status else {
            panic!("{command:?}: the job hangs\n{stdout}{stderr}");
        };
        Outcome {
            code: status.code(),
            stdout,
            stderr,
            time,
        }
    })
}

fn job(ranks: usize, scenario: &str) -> Outcome {
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"])
        .arg(program())
        .args(["mpi", scenario])
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("RAYON_NUM_THREADS", "1"),
        ]);
    run(&mut command)
}

/// The job of a scenario in which rank 1 fails: it ends soon, and not with success.
fn failed(ranks: usize, scenario: &str) -> Outcome {
    let outcome = job(ranks, scenario);
    println!("{scenario}, {ranks} ranks: {:?}, code {:?}", outcome.time, outcome.code);
    assert!(
        outcome.time < FAILED_LIMIT,
        "{scenario}: {:?}\n{}",
        outcome.time,
        outcome.stderr
    );
    assert!(
        outcome.code.is_none_or(|code| code != 0),
        "{scenario}: {}",
        outcome.stderr
    );
    outcome
}

fn has_values(ranks: usize) {
    let lines = |outcome: Outcome| {
        assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
        let mut lines: Vec<String> = outcome.stdout.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    let first = lines(job(ranks, "values"));
    assert_eq!(first.len(), ranks, "{first:?}");
    for (rank, line) in first.iter().enumerate() {
        assert!(line.starts_with(&format!("rank {rank} ok ")), "{line}");
    }
    assert_eq!(lines(job(ranks, "values")), first, "the same bits in another job");
}

#[test]
fn two_ranks_compute_what_is_defined() {
    has_values(2);
}

#[test]
fn four_ranks_compute_what_is_defined() {
    has_values(4);
}

#[test]
fn a_killed_rank_ends_the_job() {
    failed(2, "kill");
    failed(4, "kill");
}

#[test]
fn a_panic_ends_the_job() {
    let outcome = failed(2, "panic");
    assert!(outcome.stderr.contains("as the scenario says"), "{}", outcome.stderr);
    failed(4, "panic");
}

#[test]
fn a_rank_that_returns_early_ends_the_job() {
    failed(2, "leave");
}

#[test]
fn a_stopped_rank_is_ended_by_the_watchdog() {
    for ranks in [2, 4] {
        let outcome = failed(ranks, "stop");
        assert_eq!(outcome.code, Some(75), "{}", outcome.stderr);
        // the first rank that notices ends the others
        let line = " waited 5 s in all-reduce, step 4, for another rank; no state is whole";
        assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
    }
}

#[test]
fn an_engine_without_its_launcher_is_named() {
    let mut command = Command::new(program());
    let outcome = run(command
        .args(["mpi", "values"])
        .envs([("RANK", "1"), ("WORLD_SIZE", "4")]));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let expected = "expected rank 1 of 4 as the environment says, found rank 0 of 1";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
}
