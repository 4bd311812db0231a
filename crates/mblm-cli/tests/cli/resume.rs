//! Runs that are killed, run out of disk space or find damaged states, and are resumed: the result
//! is the same as without the failure.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Finished, Scratch, assert_error, best_model, done, fails, finish, mblm, str};

/// Two stages, dropout, accumulation over epochs of a few batches each, frequent validation:
/// everything that a state could lose.
const CONFIG: &str = "\
io:
  name_model: test
  output_dir: RUNS
  dataset_dir: DATA
  dataset_id: bytes
  dataset_args: { held_out: 0.1 }
  num_models_to_save: 3
  validate_amount: 12
  log_train_loss_amount: 60
params:
  input_seq_len: 30
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [8, 4]
  hidden_dims: [16, 16]
  num_layers: [1, 1]
  block:
    - { d_state: 8, d_conv: 4, expand: 2, headdim: 8, pos_emb_type: null }
    - { attn_head_dims: 8, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed, attn_dropout: 0.1, ff_dropout: 0.2 }
train:
  target_elements: 1200
  target_elements_strategy: batch
  batch_size: 2
  shuffle_train: true
  max_eval_steps: 2
  learning_rate: 1e-2
  gradient_clipping: 1.0
  gradient_accumulate_every: 3
  save_state_every: 2
";

/// The number of batches of [`CONFIG`].
const BATCHES: u64 = 600;

fn scratch() -> Scratch {
    let scratch = Scratch::with_config(CONFIG);
    let text = std::fs::read(scratch.data()).unwrap();
    // 10 kB: 300 samples for training, so the run takes four epochs
    scratch.file("data.txt", &text[..10_000]);
    scratch
}

/// Returns the command that starts or resumes the run of this id.
fn train(scratch: &Scratch, id: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("mblm"));
    command
        .args([
            "train",
            str(scratch.config()),
            "--resume",
            "auto",
            "--sample-bytes",
            "0",
        ])
        .env("JOB_ID", id)
        .env_remove("RUST_LOG")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs the command to its end. Returns its stderr.
#[track_caller]
fn complete(mut command: Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

fn run_of(scratch: &Scratch, id: &str) -> PathBuf {
    scratch.runs().join(format!("test_{id}"))
}

/// Returns the files of a finished run by name, without times: models, the last state, logs.
fn left(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in ["models", &format!("states/batch_{BATCHES}")] {
        for entry in walkdir::WalkDir::new(run.join(folder)).sort_by_file_name() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(run).unwrap().to_str().unwrap().to_string();
            // only the tensors of the state: it also holds the lengths of logs, which contain times
            if entry.file_type().is_file() && (name.starts_with("models") || name.ends_with(".safetensors")) {
                files.push((name, std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.push(("loss.csv".into(), losses(run).into_bytes()));
    files
}

/// Returns the rows of `loss.csv` without their times.
fn losses(run: &Path) -> String {
    let text = std::fs::read_to_string(run.join("loss.csv")).unwrap();
    let rows = text.lines().map(|row| {
        let (rank, rest) = row.split_once(',').unwrap();
        format!("{rank},{}\n", rest.split_once(',').unwrap().1)
    });
    rows.collect()
}

#[track_caller]
fn assert_same(scratch: &Scratch, expected: &str, found: &str) {
    let (expected, found) = (left(&run_of(scratch, expected)), left(&run_of(scratch, found)));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found));
    assert!(expected.len() > 10, "{:?}", names(&expected));
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        assert!(expected == found, "{name} differs");
    }
}

/// A seeded random number generator (Knuth's) for the moments of failure.
struct Moments(u64);

impl Moments {
    /// Returns a number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn kill(mut child: Child) -> bool {
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

#[test]
fn a_run_killed_at_twenty_random_moments_ends_with_the_same_bytes() {
    let scratch = scratch();
    complete(train(&scratch, "whole"));
    let mut moments = Moments(7);
    let (mut kills, mut resumed) = (0, std::collections::BTreeSet::new());
    while kills < 20 {
        let child = train(&scratch, "killed").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + moments.below(130)));
        kills += usize::from(kill(child));
        let states = std::fs::read_dir(run_of(&scratch, "killed").join("states"));
        resumed.extend(states.into_iter().flatten().map(|entry| entry.unwrap().file_name()));
    }
    assert!(
        resumed.len() > 5,
        "the run did not get on between the kills: {resumed:?}"
    );
    complete(train(&scratch, "killed"));
    assert_same(&scratch, "whole", "killed");
}

#[test]
fn a_run_that_dies_at_any_step_that_changes_the_disk_ends_with_the_same_bytes() {
    let scratch = scratch();
    complete(train(&scratch, "whole"));
    // each process makes `steps` changes to the disk and dies at the next one
    let mut died = 0;
    for steps in 0..200 {
        let mut command = train(&scratch, "dying");
        command.env("FAILPOINTS", format!("disk={steps}*off->return(abort)"));
        if command.status().unwrap().code().is_some() {
            break;
        }
        died += 1;
    }
    assert!(died > 60, "{died}");
    complete(train(&scratch, "dying"));
    assert_same(&scratch, "whole", "dying");
}

#[test]
fn a_full_disk_leaves_the_state_before_in_use_and_says_so() {
    let scratch = scratch();
    complete(train(&scratch, "whole"));
    // the disk is full for a while: warnings, and the same result
    let mut command = train(&scratch, "full");
    command.env("FAILPOINTS", "disk=100*off->120*return(full)->off");
    let said = complete(command);
    assert!(
        said.contains("warning: the training state could not be saved: "),
        "{said}"
    );
    assert!(
        said.contains("states/batch_") && said.contains(" stays in use"),
        "{said}"
    );
    // the disk stays full: an error, and the run resumes from the earlier state when there is space
    let mut command = train(&scratch, "fuller");
    command
        .env("FAILPOINTS", "disk=500*off->return(full)")
        .stderr(Stdio::piped());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_error(&said, &["the last training state could not be saved", "stays in use"]);
    assert!(complete(train(&scratch, "fuller")).contains("going on from "));
    assert_same(&scratch, "whole", "fuller");
}

/// Stops a run with a signal after its first batches.
fn stopped(scratch: &Scratch, id: &str) -> PathBuf {
    let mut command = train(scratch, id);
    let mut child = command.spawn().unwrap();
    let states = run_of(scratch, id).join("states");
    while std::fs::read_dir(&states).map_or(0, Iterator::count) < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    run_of(scratch, id)
}

fn newest_states(run: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run.join("states")).unwrap();
    let mut states: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let batches = |path: &Path| -> u64 { path.to_str().unwrap().rsplit('_').next().unwrap().parse().unwrap() };
    states.sort_by_key(|path| std::cmp::Reverse(batches(path)));
    states
}

#[test]
fn a_stopped_run_goes_on_to_the_same_end_from_its_folder_or_one_of_its_states() {
    let scratch = scratch();
    complete(train(&scratch, "whole"));
    for (id, place) in [("folder", 0), ("state", 1), ("older", 2)] {
        let run = stopped(&scratch, id);
        let from = match place {
            0 => run.clone(),
            place => newest_states(&run)[place - 1].clone(),
        };
        let json = done(&["train", "--resume", str(&from), "--json", "--sample-bytes", "0"]).json();
        assert_eq!(json["batches"], BATCHES);
        assert_same(&scratch, "whole", id);
        assert_eq!(json["model"], str(&best_model(&run)));
    }
}

#[test]
fn a_damaged_newest_state_leaves_the_one_before_in_use_and_says_so() {
    let scratch = scratch();
    complete(train(&scratch, "whole"));
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"] {
        let run = stopped(&scratch, file);
        let newest = newest_states(&run).remove(0).join(file);
        let mut bytes = std::fs::read(&newest).unwrap();
        let place = bytes.len() / 2;
        bytes[place] ^= 4;
        std::fs::write(&newest, bytes).unwrap();
        let said = complete(train(&scratch, file));
        assert!(
            said.contains("a newer state cannot be used: ") && said.contains("going on from "),
            "{said}"
        );
        assert_same(&scratch, "whole", file);
    }
    let run = stopped(&scratch, "all");
    for state in newest_states(&run) {
        std::fs::write(state.join("state.json"), "{").unwrap();
    }
    fails(
        &["train", "--resume", str(&run)],
        1,
        &[
            "none of its 2 training states can be used",
            "state.json: the file is damaged",
        ],
    );
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let scratch = Scratch::new();
    let args = ["train", str(scratch.config()), "--json", "--sample-bytes", "0"];
    let first = done(&args).json();
    let run = first["run"].as_str().unwrap();
    let again = done(&["train", "--resume", run, "--json", "--sample-bytes", "0"]).json();
    assert_eq!(first, again);
    let auto = done(&[&args[..], &["--resume", "auto"]].concat()).json();
    assert_eq!(first, auto);
}

#[test]
fn auto_begins_a_run_where_there_is_none() {
    let scratch = Scratch::new();
    let json = done(&[
        "train",
        str(scratch.config()),
        "--resume",
        "auto",
        "--json",
        "--sample-bytes",
        "0",
    ])
    .json();
    assert_eq!(json["batches"], 30);
    assert_eq!(scratch.run_folders().len(), 1);
}

#[test]
fn what_cannot_be_resumed() {
    let scratch = Scratch::new();
    fails(&["train", "--resume", "auto"], 2, &["give a configuration file"]);
    fails(
        &["train", "--resume", "/missing/run"],
        2,
        &["--resume /missing/run: No such file"],
    );
    let folder = scratch.path("folder");
    std::fs::create_dir(&folder).unwrap();
    fails(
        &["train", "--resume", str(&folder)],
        2,
        &["expected a run's folder or one of its states", "config.yaml"],
    );
    let config = str(scratch.config());
    let run = done(&["train", config, "--json", "--sample-bytes", "0"]).json();
    let run = run["run"].as_str().unwrap();
    fails(
        &["train", config, "--resume", run, "--set", "params.num_layers=[2, 2]"],
        2,
        &["begun with another model: params.num_layers: [1,2] → [2,2]"],
    );
    let longer = finish(&mut mblm([
        "train",
        config,
        "--resume",
        run,
        "--set",
        "train.target_elements=7680",
    ]));
    let Finished { code, stderr, .. } = longer;
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("changed since the run was begun: train.target_elements: 3840 → 7680"),
        "{stderr}"
    );
    assert!(stderr.contains("done after 60 batches"), "{stderr}");
}

#[test]
fn two_processes_do_not_train_one_run() {
    let scratch = scratch();
    let child = train(&scratch, "one").spawn().unwrap();
    let run = run_of(&scratch, "one");
    while !run.join("states").is_dir() {
        std::thread::sleep(Duration::from_millis(5));
    }
    fails(
        &["train", "--resume", str(&run)],
        1,
        &["another process is using this folder"],
    );
    kill(child);
}

/// Returns a configuration that starts with the weights at `from`.
fn beginning_with(scratch: &Scratch, from: &Path, rest: &str) -> PathBuf {
    let text = std::fs::read_to_string(scratch.config()).unwrap();
    let resume = format!(
        "resume: {{ checkpoint_file: '{}', next_epoch_index: 0, next_batch_index: 0{rest} }}\n",
        str(from)
    );
    scratch.file("resume.yaml", text + &resume)
}

#[test]
fn a_run_begins_with_the_weights_of_another_model() {
    let scratch = Scratch::new();
    let run = done(&["train", str(scratch.config()), "--json", "--sample-bytes", "0"]).json();
    let run = Path::new(run["run"].as_str().unwrap());
    let pth = scratch.path("weights.pth");
    done(&["convert", str(run), str(&pth)]);
    let first = |config: &Path, sets: &[&str]| {
        let args = [
            "train",
            str(config),
            "--json",
            "--sample-bytes",
            "0",
            "--set",
            "train.target_elements=128",
        ];
        done(&[&args[..], sets].concat()).json()["training_bits_per_byte"]
            .as_f64()
            .unwrap()
    };
    let fresh = first(scratch.config(), &[]);
    let found: Vec<f64> = [run, &best_model(run), &best_model(run).join("model.safetensors"), &pth]
        .map(|from| first(&beginning_with(&scratch, from, ""), &[]))
        .to_vec();
    assert!(
        found.iter().all(|loss| *loss == found[0] && *loss < fresh - 0.5),
        "{found:?} {fresh}"
    );
    let larger = ["--set", "params.num_tokens=260"];
    let config = beginning_with(&scratch, run, ", migrate_embeddings: true");
    let migrated = first(&config, &larger);
    assert!((migrated - found[0]).abs() < 0.2, "{migrated} {found:?}");
    let config = beginning_with(&scratch, run, "");
    fails(
        &[&["train", str(&config)], &larger[..]].concat(),
        1,
        &[
            "expected a vocabulary of 260, found 257",
            "set resume.migrate_embeddings to true",
        ],
    );
    let config = beginning_with(&scratch, Path::new("/missing.pth"), "");
    fails(&["train", str(&config)], 1, &["/missing.pth"]);
}
