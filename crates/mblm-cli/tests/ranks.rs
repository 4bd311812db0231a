//! Training on several processes under `mpirun` (feature `mpi`): the numbers of one process, agreed
//! stops, ranks that are killed, and runs that other numbers of processes continue.
#![cfg(all(feature = "mpi", unix))]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = "\
io: {name_model: t, output_dir: OUT, dataset_dir: DATA, dataset_id: bytes, dataset_args: {held_out: 0.1},
     num_models_to_save: 1, validate_amount: 2, log_train_loss_amount: 1000, enabled_loss_log_for_gpus: [0, 1, 2, 3]}
params:
  input_seq_len: 32
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [8, 4]
  hidden_dims: [16, 16]
  num_layers: [1, 1]
  block: {attn_head_dims: 8, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed}
train: {target_elements: 15360, target_elements_strategy: sequence, batch_size: 4, shuffle_train: true, max_eval_steps: 5,
        learning_rate: 1e-2, gradient_clipping: 1.0, gradient_accumulate_every: 2, save_state_every: 4}
";

/// A folder with data and a configuration.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let novel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/austen/persuasion.txt");
        std::fs::write(folder.path().join("data.txt"), &std::fs::read(novel).unwrap()[..30_000]).unwrap();
        let text = |name: &str| folder.path().join(name).display().to_string();
        let config = CONFIG.replace("OUT", &text("runs")).replace("DATA", &text("data.txt"));
        std::fs::write(folder.path().join("run.yaml"), config).unwrap();
        Self(folder)
    }

    /// `mblm train` on this many processes; 1 starts it without mpirun.
    fn train(&self, ranks: usize, more: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_mblm");
        let mut command = match ranks {
            1 => Command::new(program),
            _ => {
                let mut command = Command::new("mpirun");
                command.args([
                    "-n",
                    &ranks.to_string(),
                    "--oversubscribe",
                    "--bind-to",
                    "none",
                    program,
                ]);
                command
            }
        };
        command
            .args([
                "train",
                self.0.path().join("run.yaml").to_str().unwrap(),
                "--sample-bytes",
                "0",
            ])
            .args(["--device", "cpu"])
            .args(more)
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("RAYON_NUM_THREADS", "1")
            .env_remove("JOB_ID")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, ranks: usize, more: &[&str]) -> Output {
        let output = self.train(ranks, more).output();
        output.expect("mpirun starts: install it with `apt-get install openmpi-bin libopenmpi-dev`")
    }

    fn done(&self, ranks: usize, more: &[&str]) -> PathBuf {
        let output = self.run(ranks, more);
        assert!(output.status.success(), "{ranks} ranks: {output:?}");
        self.folder()
    }

    /// The folder of the only run.
    fn folder(&self) -> PathBuf {
        let mut entries = std::fs::read_dir(self.0.path().join("runs")).unwrap();
        entries.next().expect("a run").unwrap().path()
    }
}

/// The losses and learning rates of a worker, without times.
fn rows(run: &Path, worker: usize) -> Vec<(String, f64, f64)> {
    let name = match worker {
        0 => "loss.csv".to_string(),
        worker => format!("loss_rank{worker}.csv"),
    };
    let text = std::fs::read_to_string(run.join(name)).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let place = [cells[0], cells[2], cells[3], cells[4], cells[5], cells[6]].join(",");
        (place, cells[7].parse().unwrap(), cells[8].parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

fn weights(run: &Path) -> Vec<u8> {
    let newest = std::fs::read_dir(run.join("states"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let number = |path: &PathBuf| -> u64 {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches("batch_")
            .parse()
            .unwrap()
    };
    std::fs::read(newest.max_by_key(number).unwrap().join("model.safetensors")).unwrap()
}

fn assert_close(ours: &Path, theirs: &Path, workers: usize) {
    for worker in 0..workers {
        let (ours, theirs) = (rows(ours, worker), rows(theirs, worker));
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.len() > 20);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.0, theirs.0);
            assert!((ours.1 - theirs.1).abs() < 1e-5, "{ours:?} {theirs:?}");
            assert_eq!(ours.2, theirs.2);
        }
    }
}

#[test]
fn several_processes_train_the_run_of_one() {
    let one = Scratch::new();
    let one = (one.done(1, &["--workers", "4"]), one);
    for ranks in [2, 4] {
        let [first, second] = [Scratch::new(), Scratch::new()].map(|scratch| {
            let run = scratch.done(ranks, &["--workers", "4"]);
            (run, scratch)
        });
        assert_close(&first.0, &one.0, 4);
        assert_eq!(
            weights(&first.0),
            weights(&second.0),
            "{ranks} ranks: the same bits twice"
        );
        assert!(first.0.join("models/index.json").exists());
    }
}

#[test]
fn workers_are_the_ranks_of_the_first_start() {
    let scratch = Scratch::new();
    let run = scratch.done(2, &[]);
    let config = std::fs::read_to_string(run.join("config.yaml")).unwrap();
    assert!(config.contains("workers: 2"), "{config}");
    assert_eq!(
        rows(&run, 1).len(),
        rows(&run, 0).len() - 1,
        "all but the loss on test data"
    );
}

#[test]
fn a_killed_rank_ends_the_job_and_any_number_continues() {
    let whole = Scratch::new();
    // long enough that the kill comes before the end
    let long = ["--workers", "4", "--set", "train.target_elements=300000"];
    let expected = whole.done(2, &long);
    for (next, ranks) in [(1, 2), (2, 2), (4, 2)] {
        let scratch = Scratch::new();
        let child = scratch.train(ranks, &long).stderr(Stdio::piped()).spawn().unwrap();
        let begun = wait_for_state(&scratch);
        signal_a_rank("-KILL", &child, &scratch);
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        let resumed = scratch.done(next, &[&long[..], &["--resume", "auto"]].concat());
        assert_close(&resumed, &expected, 4);
        if next == ranks {
            assert_eq!(
                weights(&resumed),
                weights(&expected),
                "the same number of ranks: bit for bit"
            );
        }
    }
}

/// Waits until the run has a state.
fn wait_for_state(scratch: &Scratch) -> Instant {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let runs = std::fs::read_dir(scratch.0.path().join("runs"))
            .into_iter()
            .flatten()
            .flatten();
        if runs
            .map(|run| run.path().join("states/batch_4"))
            .any(|state| state.is_dir())
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Instant::now()
}

/// Sends a signal to one of the processes that mpirun started.
fn signal_a_rank(signal: &str, mpirun: &Child, scratch: &Scratch) {
    let config = scratch.0.path().join("run.yaml");
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let pid = entry.file_name().to_string_lossy().parse::<u32>();
        if let Ok(pid) = pid
            && pid != mpirun.id()
            && line.contains(config.to_str().unwrap())
        {
            pids.push(pid);
        }
    }
    if let Some(pid) = pids.last() {
        let _ = Command::new("kill").args([signal, &pid.to_string()]).status();
    }
}

#[test]
fn a_rank_that_no_longer_answers_ends_the_job() {
    let scratch = Scratch::new();
    let long = ["--set", "train.target_elements=3000000", "--timeout", "3"];
    let child = scratch.train(2, &long).stderr(Stdio::piped()).spawn().unwrap();
    let begun = wait_for_state(&scratch);
    signal_a_rank("-STOP", &child, &scratch);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(stderr.contains("waited 3 s in "), "{stderr}");
}

#[test]
fn a_signal_to_one_rank_stops_all_after_one_state() {
    let scratch = Scratch::new();
    let long = ["--set", "train.target_elements=3000000"];
    let child = scratch.train(2, &long).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_state(&scratch);
    signal_a_rank("-USR1", &child, &scratch);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("stopped after "), "{stderr}");
    assert!(stderr.contains("mblm train --resume"), "{stderr}");
}

#[test]
fn what_cannot_be_trained_is_refused_by_all() {
    let scratch = Scratch::new();
    for (more, parts) in [
        (
            &["--workers", "3"][..],
            &["train.workers is 3", "start 1, 3 of them"][..],
        ),
        (&["--set", "train.nonsense=1"], &["nonsense"]),
    ] {
        let begun = Instant::now();
        let output = scratch.run(2, more);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(!scratch.0.path().join("runs").exists(), "nothing was made");
}

#[test]
fn ranks_with_other_configurations_are_named() {
    let scratch = Scratch::new();
    let program = env!("CARGO_BIN_EXE_mblm");
    let config = scratch.0.path().join("run.yaml");
    let rank =
        |seed: &'static str| ["-n", "1", program, "train", config.to_str().unwrap(), "--seed", seed].map(String::from);
    let output = Command::new("mpirun")
        .args(["--oversubscribe", "--bind-to", "none"])
        .args(rank("1"))
        .arg(":")
        .args(rank("2"))
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("RAYON_NUM_THREADS", "1"),
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("the configuration of rank 1 is not that of rank 0"),
        "{stderr}"
    );
}
