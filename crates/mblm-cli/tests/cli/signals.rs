//! Ctrl-C and termination of a training run, and output pipes that are closed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::convert::fixture_folder;
use crate::support::{Scratch, done, str, trained};

/// Starts a run that would take hours, and waits for its first batch.
fn start(scratch: &Scratch, validate: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("mblm"))
        .args([
            "train",
            str(scratch.config()),
            "--json",
            "--set",
            "train.target_elements=1_000_000_000",
        ])
        .args(["--set", validate])
        .env_remove("RUST_LOG")
        .env_remove("JOB_ID")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("batch 1/") {
        line.clear();
        assert!(
            stderr.read_line(&mut line).unwrap() > 0,
            "the run ended before its first batch"
        );
    }
    (child, stderr)
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Sends a signal. Returns the exit code, stdout and the rest of stderr.
fn end_by(signal: &str, validate: &str, scratch: &Scratch) -> (i32, serde_json::Value, String) {
    let (mut child, mut stderr) = start(scratch, validate);
    send(signal, &child);
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    let mut stdout = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    (code, serde_json::from_slice(&stdout).unwrap(), said)
}

#[test]
fn a_signal_ends_the_run_with_its_code_and_a_saved_model() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        for validate in ["io.validate_amount=2", "io.validate_amount=0"] {
            let scratch = Scratch::new();
            let (found, json, said) = end_by(signal, validate, &scratch);
            assert_eq!(found, code, "{said}");
            assert_eq!(json["stopped"], true);
            assert!(json["batches"].as_u64().unwrap() >= 1);
            assert!(said.contains("stopping: the state is being saved"), "{said}");
            assert!(said.contains("stopped after ") && !said.contains("error"), "{said}");
            assert!(said.contains("go on: mblm train --resume "), "{said}");
            // the saved state includes the batches since the last validation
            let state = json["state"].as_str().unwrap();
            assert!(state.ends_with(&format!("states/batch_{}", json["batches"])), "{state}");
            for model in [state, json["model"].as_str().unwrap(), json["run"].as_str().unwrap()] {
                assert_eq!(done(&["generate", "-m", model, "-n", "4", "--raw"]).stdout.len(), 4);
            }
        }
    }
}

#[test]
fn a_run_goes_on_when_nobody_reads_its_messages() {
    let scratch = Scratch::new();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("mblm"))
        .args(["train", str(scratch.config()), "--json", "-v"])
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["batches"], 30);
}

#[test]
fn a_signal_ends_generation_with_its_code_and_what_was_generated() {
    let scratch = Scratch::new();
    let folder = fixture_folder(&scratch);
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("mblm"))
        .args(["generate", "-m", str(&folder), "-n", "1000000000", "--raw"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    send("-INT", &child);
    stdout.read_to_end(&mut Vec::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_signal_ends_scoring_with_its_code_and_what_was_scored() {
    // an endless file: its first line of output shows that the signal handlers are installed
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("mblm"))
        .args(["eval", "-m", str(&trained().model), "--surprisal", "jsonl", "/dev/zero"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"offset\":0,"), "{line}");
    send("-INT", &child);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("}\n"), "the last line is whole");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    let bytes = rest.lines().count() + 1;
    assert!(
        said.contains(&format!("{bytes} ")) && said.contains("/dev/zero (stopped)"),
        "{said}"
    );
}
