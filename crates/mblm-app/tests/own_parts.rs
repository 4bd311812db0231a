//! A program with a block and a data set of its own has all commands.

use std::process::ExitCode;

#[allow(dead_code)] // its `main`
#[path = "../examples/own_parts.rs"]
mod own_parts;

const CONFIG: &str = "\
io:
  name_model: own
  output_dir: RUNS
  dataset_dir: anywhere
  dataset_id: squares
  num_models_to_save: 1
  validate_amount: 1
  log_train_loss_amount: 2
params:
  input_seq_len: 32
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [8, 4]
  hidden_dims: [16, 16]
  num_layers: [1, 1]
  block:
    - { attn_head_dims: 8, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed }
    - { block_type: lstm }
train:
  target_elements: 512
  target_elements_strategy: sequence
  batch_size: 4
  shuffle_train: true
  max_eval_steps: 2
  learning_rate: 1e-2
  gradient_accumulate_every: 1
";

fn run(args: &[&str]) {
    let all = std::iter::once(&"mblm").chain(args);
    let code = own_parts::app()
        .try_run_from(all)
        .unwrap_or_else(|error| panic!("{args:?}: {error:#}"));
    assert_eq!(code, ExitCode::SUCCESS, "{args:?}");
}

#[test]
fn every_command_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (config, runs) = (path("config.yaml"), path("runs"));
    std::fs::write(&config, CONFIG.replace("RUNS", &runs)).unwrap();
    run(&["plan", &config, "--memory", "1GiB"]);
    run(&["train", &config, "--quiet"]);
    let mut folders = std::fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().path());
    let run_folder = folders.next().unwrap();
    let model = run_folder.to_str().unwrap();
    run(&["generate", "-m", model, "--prompt", "7*7=", "-n", "8"]);
    run(&["eval", "-m", model, "--config", &config, "--max-samples", "4"]);
    run(&["data", "check", &config, "--split", "train"]);
    run(&["inspect", &config]);
    run(&["doctor", "--device", "cpu", "--json"]);
    let help = own_parts::app().try_run_from(["mblm", "bench", "--help"]).unwrap_err();
    assert_eq!(
        help.downcast_ref::<clap::Error>().unwrap().kind(),
        clap::error::ErrorKind::DisplayHelp
    );
}

#[test]
fn names_that_nobody_registered_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let error = mblm_app::App::new()
        .try_run_from([
            "mblm".as_ref(),
            "train".as_ref(),
            config.as_os_str(),
            "--dry-run".as_ref(),
        ])
        .unwrap_err();
    assert!(error.to_string().contains("squares"), "{error:#}");
}
