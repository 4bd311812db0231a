//! Shared code of the tests: runs the command, holds a configuration that trains in a second, and
//! trains one model for all tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// Returns the command, without environment variables that change its behavior.
pub(crate) fn mblm<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::cargo_bin("mblm").unwrap();
    for variable in [
        "RUST_LOG",
        "JOB_ID",
        "RUST_BACKTRACE",
        "RUST_LIB_BACKTRACE",
        "RANK",
        "WORLD_SIZE",
    ] {
        command.env_remove(variable);
    }
    command.args(args);
    command
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Parses stdout as one JSON document of the current schema.
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_slice(&self.stdout).unwrap();
        assert_eq!(value["schema_version"], 1, "{value}");
        value
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command with these arguments and expects it to succeed.
pub(crate) fn done(args: &[&str]) -> Finished {
    let finished = finish(&mut mblm(args));
    assert_eq!(finished.code, 0, "mblm {args:?}: {}", finished.stderr);
    finished
}

/// Runs the command and expects exit code `code`, an empty stdout, and one error that contains all
/// `parts`. Returns its stderr.
#[track_caller]
pub(crate) fn fails(args: &[&str], code: i32, parts: &[&str]) -> String {
    let finished = finish(&mut mblm(args));
    assert_eq!(finished.code, code, "mblm {args:?}: {finished:?}");
    assert!(finished.stdout.is_empty(), "mblm {args:?}: {finished:?}");
    assert_error(&finished.stderr, parts);
    finished.stderr
}

#[track_caller]
pub(crate) fn assert_error(stderr: &str, parts: &[&str]) {
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "expected {part:?} in: {stderr}");
    }
}

/// Returns a path as an argument.
pub(crate) fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("crates/mblm/tests/fixtures").join(name)
}

/// A folder with 20 kB of English and a configuration that trains 30 batches on it.
pub(crate) struct Scratch {
    folder: TempDir,
    config: PathBuf,
    data: PathBuf,
    runs: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::with_config(CONFIG)
    }

    /// Uses `config` as the configuration; in it, `DATA` and `RUNS` are replaced by the data file
    /// and the folder of runs.
    pub(crate) fn with_config(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [data, runs, path] = ["data.txt", "runs", "config.yaml"].map(|name| folder.path().join(name));
        let novel = std::fs::read(root().join("data/austen/persuasion.txt")).unwrap();
        std::fs::write(&data, &novel[..20_000]).unwrap();
        let config = config.replace("DATA", str(&data)).replace("RUNS", str(&runs));
        std::fs::write(&path, config).unwrap();
        Self {
            folder,
            config: path,
            data,
            runs,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn runs(&self) -> &Path {
        &self.runs
    }

    /// Writes a file with this content.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Returns the folders of the runs so far.
    pub(crate) fn run_folders(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.runs()) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// The configuration of a [`Scratch`]: two stages of width 16, 32 bytes of context.
pub(crate) const CONFIG: &str = "\
io:
  name_model: test
  output_dir: RUNS
  dataset_dir: DATA
  dataset_id: bytes
  dataset_args: { held_out: 0.1 }
  num_models_to_save: 1
  validate_amount: 2
  log_train_loss_amount: 10
params:
  input_seq_len: 32
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [8, 4]
  hidden_dims: [16, 16]
  num_layers: [1, 2]
  block:
    attn_head_dims: 8
    attn_num_heads: 2
    attn_use_rot_embs: true
    pos_emb_type: fixed
train:
  target_elements: 3840
  target_elements_strategy: sequence
  batch_size: 4
  shuffle_train: true
  max_eval_steps: 4
  learning_rate: 1e-2
  gradient_clipping: 1.0
  gradient_accumulate_every: 1
";

/// A finished run and its output.
pub(crate) struct Trained {
    pub(crate) scratch: Scratch,
    pub(crate) run: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) finished: Finished,
}

/// Returns the folder of a run's best model, as its index names it.
pub(crate) fn best_model(run: &Path) -> PathBuf {
    let models = run.join("models");
    let index: Value = serde_json::from_slice(&std::fs::read(models.join("index.json")).unwrap()).unwrap();
    models.join(index[0]["folder"].as_str().unwrap())
}

/// Returns the run that all tests share: `mblm train CONFIG --json`.
pub(crate) fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let scratch = Scratch::new();
        let finished = done(&["train", str(scratch.config()), "--json"]);
        let mut folders = scratch.run_folders();
        let run = folders.pop().unwrap();
        assert!(folders.is_empty());
        Trained {
            model: best_model(&run),
            scratch,
            run,
            finished,
        }
    })
}

/// Returns the sorted names in a folder.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
