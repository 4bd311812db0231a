//! Requests that cannot work are refused before anything is created: models and steps larger than
//! the memory, samples and data too short for a step, figures in place of files, invalid paths and
//! values. Valid ones work.

use crate::support::{Scratch, assert_error, done, fails, finish, mblm, str, trained};

/// Two stages so wide that no machine can hold their weights.
const HUGE: &str = "params.hidden_dims=[8000000,8000000]";

#[test]
fn a_model_larger_than_the_memory_is_not_begun() {
    let scratch = Scratch::new();
    let text = std::fs::read_to_string(scratch.config()).unwrap();
    let huge = scratch.file("huge.yaml", text.replace("[16, 16]", "[8000000, 8000000]"));
    let bench = ["bench", "--config", str(&huge), "--seconds", "0"];
    let parts = ["training needs about ", "PiB, but only ", "params.hidden_dims"];
    fails(&bench, 1, &parts);
    let parts = ["parameters need ", ", but only "];
    fails(&[&bench[..], &["--what", "generate"]].concat(), 1, &parts);
    // the step does not fit, the model does
    fails(
        &[
            &["bench", "--config", str(scratch.config())][..],
            &["--batch-size", "100000000000"],
        ]
        .concat(),
        1,
        &["training needs about ", "train.batch_size"],
    );
    // `plan` estimates models of any size
    let json = done(&[
        "plan",
        str(scratch.config()),
        "--set",
        HUGE,
        "--memory",
        "64PiB",
        "--json",
    ])
    .json();
    assert!(json["memory_bytes"].as_u64().unwrap() > 1 << 50, "{json}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_limit_of_a_process_counts_as_its_memory() {
    // 6 GiB of weights, which fit on most machines, in a process limited to 4 GiB
    let scratch = Scratch::new();
    let text = std::fs::read_to_string(scratch.config()).unwrap();
    let large = scratch.file("large.yaml", text.replace("[16, 16]", "[10000, 10000]"));
    let mblm = assert_cmd::cargo::cargo_bin("mblm");
    for what in ["train", "generate"] {
        let line = format!(
            "ulimit -v 4000000; exec {} bench --config {} --seconds 0 --what {what}",
            mblm.display(),
            large.display()
        );
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(" are available to this process"), "{said}");
    }
}

#[test]
fn samples_and_data_too_short_for_a_step_leave_no_run() {
    let scratch = Scratch::new();
    let train = |set: &'static str| ["train", str(scratch.config()), "--set", set];
    // enough elements, but not enough data
    let args = [
        &train("train.batch_size=1000")[..],
        &["--set", "train.target_elements=100000"],
    ]
    .concat();
    fails(&args, 1, &["samples do not fill one batch of 1000", "lower batch_size"]);
    assert!(scratch.run_folders().is_empty());
}

#[test]
fn a_figure_replaces_nothing_unless_told_to() {
    let scratch = Scratch::new();
    let figure = scratch.file("figure.svg", "precious");
    let plot = ["plot", str(&trained().run), "-o", str(&figure)];
    fails(&plot, 2, &["figure.svg: is there already", "--force"]);
    assert_eq!(std::fs::read(&figure).unwrap(), b"precious");
    done(&[&plot[..], &["--force"]].concat());
    assert!(std::fs::read_to_string(&figure).unwrap().starts_with("<svg"));
}

#[test]
fn paths_with_variables_that_are_not_set_make_nothing() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::copy(scratch.data(), home.join("data.txt")).unwrap();
    let train = |more: &[&str]| {
        let args = [
            "train",
            str(scratch.config()),
            "--sample-bytes",
            "0",
            "--set",
            "train.target_elements=256",
        ];
        finish(
            mblm([&args[..], more].concat())
                .current_dir(scratch.path("."))
                .env("HOME", &home)
                .env_remove("NOT_SET"),
        )
    };
    let found = train(&[
        "--set",
        "io.dataset_dir=~/data.txt",
        "--out=$HOME/runs",
        "--name",
        "123",
    ]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    let made = std::fs::read_dir(home.join("runs")).unwrap().next().unwrap().unwrap();
    assert!(made.file_name().to_string_lossy().starts_with("123_"));
    for set in ["io.output_dir=$NOT_SET/runs", "io.dataset_dir=${NOT_SET}/data.txt"] {
        let wrong = train(&["--set", set]);
        assert_eq!(wrong.code, 2, "{}", wrong.stderr);
        assert_error(&wrong.stderr, &["the environment variable NOT_SET is not set"]);
    }
    assert!(!scratch.path("$NOT_SET").exists());
}

#[test]
fn every_value_may_begin_with_a_hyphen() {
    let model = str(&trained().model);
    let data = str(trained().scratch.data());
    for (args, part) in [
        (
            &["generate", "-m", model, "--seed", "-1"][..],
            "'-1' for '--seed <SEED>': expected a whole number of at least 0",
        ),
        (
            &["generate", "-m", model, "--top-p", "-.5"],
            "top-p is -0.5: expected more than 0 and at most 1",
        ),
        (
            &["generate", "-m", model, "--temperature", "-inf"],
            "temperature is -inf: expected 0 (greedy)",
        ),
        (
            &["generate", "-m", model, "--seed", "-x"],
            "'-x' for '--seed <SEED>': expected a whole number",
        ),
        (
            &["needle", "-m", model, "--data", data, "--depths", "-1,50"],
            "'-1' for '--depths <PERCENT>': expected percent",
        ),
        (
            &["needle", "-m", model, "--data", data, "--lengths", "-1KiB"],
            "expected a number of bytes, such as",
        ),
        (
            &["eval", "-m", model, data, "--context", "-1"],
            "'-1' for '--context <BYTES>': expected a whole number",
        ),
        (&["bench", "--seconds", "-1"], "expected seconds, 0 to 86400"),
        (
            &["train", "--data", data, "--memory", "-1GiB"],
            "expected a number of bytes, such as",
        ),
    ] {
        fails(args, 2, &[part]);
    }
    // a missing path does not swallow the next option
    fails(&["generate", "-m", model, "--out", "--raw"], 2, &["--out <DIR>"]);
}

#[cfg(unix)]
#[test]
fn a_prompt_is_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let prompt = std::ffi::OsStr::from_bytes(b"\xff\x00x".split(|byte| *byte == 0).next().unwrap());
    let model = trained().model.as_os_str();
    let args = ["generate", "-n", "3", "--seed", "1", "--json", "-m"].map(std::ffi::OsStr::new);
    let finished = finish(&mut mblm(args.into_iter().chain([model, "--prompt".as_ref(), prompt])));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(finished.json()["prompt"], "\u{fffd}");
}

#[cfg(unix)]
#[test]
fn weights_may_not_come_through_a_pipe_but_a_configuration_may() {
    let scratch = Scratch::new();
    let yaml = std::fs::read_to_string(scratch.config()).unwrap();
    for path in ["-", "/dev/stdin"] {
        let finished = finish(mblm(["inspect", path, "--json"]).write_stdin(yaml.as_str()));
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert_eq!(finished.json()["kind"], "decoder");
    }
}

#[cfg(unix)]
#[test]
fn signals_that_come_twice_by_themselves_lose_no_work() {
    for signals in [
        ["-HUP", "-HUP"],
        ["-XCPU", "-XCPU"],
        ["-USR1", "-TERM"],
        ["-TERM", "-HUP"],
    ] {
        // as under nohup: the program goes on, and would for hours
        if signals.contains(&"-HUP") && crate::real_inputs::is_ignored(1) {
            continue;
        }
        let scratch = Scratch::new();
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("mblm"))
            .args([
                "train",
                str(scratch.config()),
                "--set",
                "train.target_elements=1_000_000_000",
            ])
            .env_remove("JOB_ID")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        assert!(lines.any(|line| line.unwrap().starts_with("batch 1/")));
        // one call, so that both signals are pending before the first is handled
        let id = child.id();
        let line = format!("kill {} {id}; kill {} {id}", signals[0], signals[1]);
        std::process::Command::new("sh").args(["-c", &line]).status().unwrap();
        let said: Vec<String> = lines.map(Result::unwrap).collect();
        // the kernel may deliver two pending signals in either order
        let codes = [("-HUP", 129), ("-XCPU", 152), ("-USR1", 138), ("-TERM", 143)];
        let code = child.wait().unwrap().code();
        let is_one = codes
            .iter()
            .any(|(signal, expected)| signals.contains(signal) && code == Some(*expected));
        assert!(is_one, "{signals:?}: {code:?} {said:?}");
        assert!(
            said.iter().any(|line| line.contains("go on: mblm train --resume")),
            "{said:?}"
        );
    }
}
