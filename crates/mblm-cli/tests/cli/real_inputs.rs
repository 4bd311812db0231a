//! Realistic inputs: configurations from pipes, values with hyphens, names, shorthands. They work,
//! or are refused before anything is created.

use std::process::Stdio;

use crate::support::{Scratch, assert_error, done, fails, finish, mblm, str, trained};

/// Returns lines of English text, each with its own number.
fn text(lines: usize) -> String {
    (0..lines)
        .map(|line| format!("line {} of some text\n", line * 7919 % 10007))
        .collect()
}

fn train(scratch: &Scratch, more: &[&str]) -> Vec<String> {
    let args = ["train", str(scratch.config()), "--sample-bytes", "0"];
    args.iter().chain(more).map(ToString::to_string).collect()
}

#[cfg(unix)]
#[test]
fn a_configuration_comes_through_a_pipe_or_stdin() {
    let scratch = Scratch::new();
    let yaml = std::fs::read_to_string(scratch.config()).unwrap();
    for command in [
        &["train", "-", "--dry-run"][..],
        &["plan", "-"],
        &["data", "check", "-"],
    ] {
        let from_stdin = finish(mblm(command).write_stdin(yaml.as_str()));
        assert_eq!(from_stdin.code, 0, "{command:?} {}", from_stdin.stderr);
    }
    let pipe = scratch.path("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let writer = {
        let (pipe, yaml) = (pipe.clone(), yaml.clone());
        std::thread::spawn(move || std::fs::write(pipe, yaml).unwrap())
    };
    let from_pipe = done(&["train", str(&pipe), "--dry-run"]);
    writer.join().unwrap();
    let from_file = done(&["train", str(scratch.config()), "--dry-run"]);
    let behind_name = |text: &str| text.split_once(' ').map(|(_, rest)| rest.to_string());
    assert_eq!(
        from_pipe.text().lines().skip(1).collect::<Vec<_>>(),
        from_file.text().lines().skip(1).collect::<Vec<_>>()
    );
    assert!(behind_name(from_pipe.text()).is_some());
}

#[test]
fn values_may_begin_with_a_hyphen() {
    let model = str(&trained().model);
    let generate = |more: &[&str]| {
        let args = [&["generate", "-m", model, "-n", "3"], more].concat();
        finish(&mut mblm(args))
    };
    for more in [
        &["--prompt", "- item"][..],
        &["--prompt", "-n 5"],
        &["--prompt", "--"],
        &["--prompt", "x", "--stop", "--"],
        &["--only", "-a-z"],
        &["--forbid", "-"],
    ] {
        let finished = generate(more);
        assert_eq!(finished.code, 0, "{more:?} {}", finished.stderr);
    }
    for (more, part) in [
        (["--temperature", "-1"], "temperature is -1"),
        (["--seed", "-1"], "-1"),
        (["--top-k", "-3"], "-3"),
    ] {
        let finished = generate(&more);
        assert_eq!(finished.code, 2, "{more:?}");
        assert_error(&finished.stderr, &[part]);
        assert!(!finished.stderr.contains("unexpected argument"), "{}", finished.stderr);
    }
    fails(&["needle", "-m", model, "--depths", "-1"], 2, &["-1", "percent"]);
    // an unknown option is still reported as an option
    fails(&["generate", "-m", model, "--nothing"], 2, &["--nothing"]);
}

#[cfg(unix)]
#[test]
fn a_prompt_may_be_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let prompt = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let words = [
        "generate",
        "-m",
        str(&trained().model),
        "-n",
        "3",
        "--seed",
        "1",
        "--raw",
    ];
    let typed = finish(mblm(words).arg("--prompt").arg(prompt));
    assert_eq!(typed.code, 0, "{}", typed.stderr);
    let scratch = Scratch::new();
    let file = scratch.file("prompt", b"caf\xe9");
    assert_eq!(
        done(&[&words[..], &["--prompt-file", str(&file)]].concat()).stdout,
        typed.stdout
    );
}

#[test]
fn samples_of_one_patch_are_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    for (len, part) in [("1", "at least 2 bytes"), ("4", "more than one patch")] {
        let short = finish(&mut mblm(train(
            &scratch,
            &["--set", &format!("params.input_seq_len={len}")],
        )));
        assert_eq!(short.code, 2, "{}", short.stderr);
        assert_error(&short.stderr, &["input_seq_len", part]);
    }
    assert!(scratch.run_folders().is_empty());
}

#[test]
fn names_of_runs_stay_within_the_output_folder() {
    let scratch = Scratch::new();
    let grouped = finish(&mut mblm(train(&scratch, &["--set", "io.name_model=group/run"])));
    assert_eq!(grouped.code, 0, "{}", grouped.stderr);
    let made = std::fs::read_dir(scratch.runs().join("group")).unwrap();
    assert_eq!(made.count(), 1);
    for name in ["../out", "/tmp/out", "a/../b", "a/", "\"\""] {
        let wrong = finish(&mut mblm(train(&scratch, &["--set", &format!("io.name_model={name}")])));
        assert_eq!(wrong.code, 2, "{name}");
        assert_error(&wrong.stderr, &["name_model"]);
    }
    let job = finish(mblm(train(&scratch, &[])).env("JOB_ID", "../../x"));
    assert_eq!(job.code, 2);
    assert_error(&job.stderr, &["JOB_ID", ".."]);
    let again = finish(&mut mblm(train(
        &scratch,
        &["--set", "io.name_model=group/run", "--resume", "auto"],
    )));
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("going on from"), "{}", again.stderr);
}

#[test]
fn a_model_beyond_all_memory_is_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    let huge = finish(&mut mblm(train(
        &scratch,
        &["--set", "params.hidden_dims=[8000000,8000000]"],
    )));
    assert_eq!(huge.code, 1, "{}", huge.stderr);
    assert_error(&huge.stderr, &["need", "GiB", "params.hidden_dims"]);
    assert!(scratch.run_folders().is_empty());
}

#[cfg(unix)]
#[test]
fn messages_are_plain_lines() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), text(300)).unwrap();
    std::fs::write(folder.join("b"), "").unwrap();
    let data = format!("io.dataset_dir={}", str(&folder));
    let warned = finish(mblm(["data", "check", str(scratch.config()), "--set", &data]).env("RUST_BACKTRACE", "1"));
    assert!(!warned.stderr.contains('\x1b'), "{}", warned.stderr);
    assert!(
        warned
            .stderr
            .lines()
            .any(|line| line.starts_with("warning: ") && line.ends_with("empty, skipped")),
        "{}",
        warned.stderr
    );
    let broken = scratch.file("broken.pth", b"PK\x03\x04nothing");
    let failed = finish(mblm(["inspect", str(&broken)]).env("RUST_BACKTRACE", "1"));
    assert_ne!(failed.code, 0);
    assert_eq!(failed.stderr.trim_end().lines().count(), 1, "{}", failed.stderr);
}

/// Whether this process, and therefore its children, ignores a signal.
#[cfg(unix)]
pub(crate) fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (number - 1) & 1 == 1))
}

#[cfg(unix)]
#[test]
fn closed_terminals_and_batch_systems_end_a_run_in_good_order() {
    for (signal, number) in [("-HUP", 1), ("-USR1", 10), ("-XCPU", 24)] {
        // under nohup the signal is ignored, so the program would run on for hours
        if is_ignored(number) {
            continue;
        }
        let code = 128 + number;
        let scratch = Scratch::new();
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("mblm"))
            .args(train(&scratch, &["--set", "train.target_elements=1_000_000_000"]))
            .env_remove("JOB_ID")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        assert!(lines.any(|line| line.unwrap().starts_with("batch 1/")));
        let kill = std::process::Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let said: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert!(
            said.iter().any(|line| line.contains("go on: mblm train --resume")),
            "{said:?}"
        );
    }
}

#[test]
fn files_are_replaced_only_if_that_is_asked_for() {
    let scratch = Scratch::new();
    let (model, out, state) = (str(&trained().model), scratch.path("out"), scratch.path("state"));
    for (option, path) in [("--out", &out), ("--save-state", &state)] {
        let args = ["generate", "-m", model, "-n", "3", "--seed", "1", option, str(path)];
        done(&args);
        fails(&args, 2, &[option, "is there already", "--force"]);
        done(&[&args[..], &["--force"]].concat());
    }
}

#[test]
fn what_people_type_is_answered() {
    let scratch = Scratch::new();
    let notes = scratch.file("notes.md", "# Notes\n\n- one: two: three\n");
    fails(
        &["train", str(&notes)],
        2,
        &["is not a configuration", "mblm train --data"],
    );
    fails(
        &["train", str(scratch.config()), "--epochs", "3"],
        2,
        &["train.target_elements"],
    );
    fails(
        &["train", str(scratch.config()), "--steps", "3"],
        2,
        &["train.target_elements"],
    );
    fails(
        &["train", str(scratch.config()), "--memory", "lots"],
        2,
        &["8GiB", "lots"],
    );
    let short = [
        "train",
        str(scratch.config()),
        "--lr",
        "2e-3",
        "--batch-size",
        "2",
        "--name",
        "short",
        "--sample-bytes",
        "0",
    ];
    done(&short);
    let run = scratch.run_folders().remove(0);
    assert!(run.file_name().unwrap().to_str().unwrap().starts_with("short_"));
    let config = std::fs::read_to_string(run.join("config.yaml")).unwrap();
    assert!(
        config.contains("batch_size: 2") && config.contains("learning_rate: 0.002"),
        "{config}"
    );
    // the model given as a run folder, as the newest run, and as the first argument
    let same = ["-n", "5", "--seed", "1"];
    let direct = done(&[&["generate", "-m", str(&run)][..], &same].concat()).stdout;
    assert_eq!(
        done(&[&["generate", "-m", str(scratch.runs())][..], &same].concat()).stdout,
        direct
    );
    assert_eq!(done(&[&["generate", str(&run)][..], &same].concat()).stdout, direct);
    let latest = finish(mblm([&["generate", "-m", "latest"][..], &same].concat()).current_dir(scratch.path("")));
    assert_eq!(latest.stdout, direct, "{}", latest.stderr);
    let file = scratch.file("some.txt", text(20));
    assert!(done(&["eval", str(&run), str(&file)]).text().contains("some.txt"));
    fails(&["generate", "-m", "latest"], 2, &["latest", "runs"]);
}
