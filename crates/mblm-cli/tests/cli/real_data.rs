//! Data in realistic places and forms: beside runs, changed between runs, in containers and under
//! any name.

use std::io::Write;

use crate::support::{Scratch, assert_error, done, finish, mblm, str};

/// Returns lines of English text, each with its own number.
pub(crate) fn text(lines: usize) -> String {
    (0..lines)
        .map(|line| format!("line {} of some text\n", line * 7919 % 10007))
        .collect()
}

fn train(scratch: &Scratch, more: &[&str]) -> Vec<String> {
    let args = ["train", str(scratch.config()), "--sample-bytes", "0"];
    args.iter().chain(more).map(ToString::to_string).collect()
}

#[test]
fn what_runs_write_is_never_data() {
    let scratch = Scratch::new();
    let folder = scratch.path("project");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.txt"), text(1500)).unwrap();
    let set = |key: &str, value: &str| format!("{key}={value}");
    let data = set("io.dataset_dir", str(&folder));
    let out = set("io.output_dir", str(&folder.join("runs")));
    let more = ["--set", &data, "--set", &out];
    let first = finish(&mut mblm(train(&scratch, &more)));
    assert_eq!(first.code, 0, "{}", first.stderr);
    let bytes = |finished: &crate::support::Finished| {
        let mut lines = finished.text().lines();
        lines
            .find(|line| line.contains("train split"))
            .unwrap_or_default()
            .to_string()
    };
    let check = done(&[&["data", "check", str(scratch.config())][..], &more].concat());
    assert!(
        check.stderr.contains("outputs of training runs are not data"),
        "{}",
        check.stderr
    );
    let train_bytes = text(1500).len() - text(1500).len() / 10;
    assert!(
        bytes(&check).contains(&format!("{train_bytes}")),
        "{} {train_bytes}",
        bytes(&check)
    );
    let run = std::fs::read_dir(folder.join("runs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let on = finish(&mut mblm([
        "train",
        "--resume",
        str(&run),
        "--sample-bytes",
        "0",
        "--set",
        "train.target_elements=4800",
    ]));
    assert_eq!(on.code, 0, "{}", on.stderr);
}

#[test]
fn data_that_changed_are_refused_unless_that_is_accepted() {
    let scratch = Scratch::new();
    let first = finish(&mut mblm(train(&scratch, &[])));
    assert_eq!(first.code, 0, "{}", first.stderr);
    let run = scratch.run_folders().remove(0);
    let log = std::fs::read(run.join("loss.csv")).unwrap();
    let old = std::fs::read(scratch.data()).unwrap();
    let resume = |more: &[&str]| {
        let args = [
            "train",
            "--resume",
            str(&run),
            "--sample-bytes",
            "0",
            "--set",
            "train.target_elements=4800",
        ];
        finish(&mut mblm([&args, more].concat()))
    };
    let other: Vec<u8> = old
        .iter()
        .map(|byte| if *byte == b'e' { b'f' } else { *byte })
        .collect();
    for (content, part) in [
        ([&old[..], &old].concat(), "bytes when the run began"),
        (old[..9000].to_vec(), "bytes when"),
        (other, "different contents"),
    ] {
        std::fs::write(scratch.data(), content).unwrap();
        let refused = resume(&[]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert_error(&refused.stderr, &["data changed", part, "--accept-data-change"]);
        assert_eq!(std::fs::read(run.join("loss.csv")).unwrap(), log, "nothing is written");
    }
    let accepted = resume(&["--accept-data-change"]);
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
}

#[test]
fn a_run_goes_on_from_another_folder() {
    let scratch = Scratch::new();
    scratch.file("text.txt", text(1500));
    let begun = finish(mblm(train(&scratch, &["--set", "io.dataset_dir=text.txt"])).current_dir(scratch.path("")));
    assert_eq!(begun.code, 0, "{}", begun.stderr);
    let run = scratch.run_folders().remove(0);
    let elsewhere = tempfile::tempdir().unwrap();
    let args = [
        "train",
        "--resume",
        str(&run),
        "--sample-bytes",
        "0",
        "--set",
        "train.target_elements=4800",
    ];
    let on = finish(mblm(args).current_dir(elsewhere.path()));
    assert_eq!(on.code, 0, "{}", on.stderr);
    assert!(on.stderr.contains("where the run began"), "{}", on.stderr);
}

#[test]
fn an_id_that_is_a_byte_of_the_data_is_told() {
    let scratch = Scratch::new();
    for command in [&["train"][..], &["data", "check"]] {
        let mut args = command.to_vec();
        args.extend([str(scratch.config()), "--set", "params.pad_token_id=32"]);
        let told = finish(&mut mblm(&args));
        assert!(
            told.stderr.contains("pad_token_id is 32") && told.stderr.contains('%'),
            "{}",
            told.stderr
        );
    }
    let fine = finish(&mut mblm([
        "data",
        "check",
        str(scratch.config()),
        "--set",
        "params.pad_token_id=0",
    ]));
    assert!(
        !fine.stderr.contains("pad_token_id"),
        "no byte of the text: {}",
        fine.stderr
    );
}

#[test]
fn data_are_read_by_what_they_are() {
    let scratch = Scratch::new();
    let lines: String = (0..400)
        .map(|line| format!("{{\"id\": {line}, \"text\": \"line {line} of it\"}}\n"))
        .collect();
    let check = |name: &str, content: &[u8], args: &str| {
        let path = scratch.file(name, content);
        let args = format!("io.dataset_args={args}");
        let data = format!("io.dataset_dir={}", str(&path));
        finish(&mut mblm([
            "data",
            "check",
            str(scratch.config()),
            "--set",
            &data,
            "--set",
            &args,
        ]))
    };
    let bytes: usize = (0..400).map(|line| format!("line {line} of it\n").len()).sum();
    for name in ["a.jsonl", "a.ndjson", "a.json", "a.jsonlines", "a.jsonl.txt", "a"] {
        let found = check(name, lines.as_bytes(), "{text_field: text, held_out: 0.5}");
        assert_eq!(found.code, 0, "{}", found.stderr);
        assert!(
            found.text().contains(&format!("{}", bytes / 2)),
            "{name}: {}",
            found.text()
        );
    }
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive
        .start_file("a.txt", zip::write::SimpleFileOptions::default())
        .unwrap();
    archive.write_all(lines.as_bytes()).unwrap();
    let archive = archive.finish().unwrap().into_inner();
    let refused = check("data.bin", &archive, "{held_out: 0.1}");
    assert_eq!(refused.code, 1);
    assert_error(&refused.stderr, &["zip", "unzip", "raw: true"]);
    let raw = check("data.bin", &archive, "{held_out: 0.1, raw: true}");
    assert_eq!(raw.code, 0, "{}", raw.stderr);
    let bad = format!("{lines}nothing\n");
    let refused = check("bad.jsonl", bad.as_bytes(), "{text_field: text}");
    assert_error(&refused.stderr, &["line 401", "skip_bad_lines"]);
    let skipped = check(
        "bad.jsonl",
        bad.as_bytes(),
        "{text_field: text, skip_bad_lines: true, held_out: 0.5}",
    );
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert!(
        skipped.stderr.contains("1 lines skipped") && skipped.stderr.contains("line 401"),
        "{}",
        skipped.stderr
    );
}

#[test]
fn data_may_come_through_stdin() {
    let scratch = Scratch::new();
    let piped = |input: &str, more: &[&str]| {
        let args = [&["--set", "io.dataset_dir='-'"][..], more].concat();
        finish(mblm(train(&scratch, &args)).write_stdin(input.to_string()))
    };
    for (input, more, code) in [("", &[][..], 2), ("short", &[], 1), (&text(1500), &["--dry-run"], 0)] {
        let found = piped(input, more);
        assert_eq!(found.code, code, "{}", found.stderr);
        assert!(!scratch.path("runs").exists(), "{}", found.stderr);
    }
    let run = piped(&text(1500), &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("from stdin are kept in "), "{}", run.stderr);
    let (folders, copies): (Vec<_>, Vec<_>) = scratch.run_folders().into_iter().partition(|path| path.is_dir());
    let ([folder], [copy]) = (&folders[..], &copies[..]) else {
        panic!("{folders:?} {copies:?}")
    };
    let config = std::fs::read_to_string(folder.join("config.yaml")).unwrap();
    assert!(config.contains(str(copy)), "{config}");
    assert_eq!(std::fs::read_to_string(copy).unwrap(), text(1500));
    // the resumed run reads the copy
    let resumed = done(&["train", "--resume", str(folder), "--sample-bytes", "0"]);
    assert_eq!(resumed.code, 0);
}

#[test]
fn a_pipe_in_the_place_of_a_data_set_is_refused() {
    let scratch = Scratch::new();
    let refused = finish(mblm(train(&scratch, &["--set", "io.dataset_dir=/dev/stdin"])).write_stdin(text(1500)));
    assert_ne!(refused.code, 0, "{}", refused.stderr);
    assert_error(&refused.stderr, &["only once", "> data.txt"]);
    assert!(scratch.run_folders().is_empty());
}

#[test]
fn folders_and_files_that_are_splits_by_name_are_taken_so() {
    let scratch = Scratch::new();
    for (train, other) in [
        ("train/a", "val/b"),
        ("Train/a", "valid/b"),
        ("train/a", "dev/b"),
        ("train.txt", "validation.txt"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (path, lines) in [(train, 800), (other, 200)] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text(lines)).unwrap();
        }
        let data = format!("io.dataset_dir={}", str(folder.path()));
        let check = done(&[
            "data",
            "check",
            str(scratch.config()),
            "--set",
            &data,
            "--set",
            "io.dataset_args={}",
        ]);
        for lines in [800, 200] {
            assert!(
                check.text().contains(&format!("{} bytes", text(lines).len())),
                "{train} {other}: {}",
                check.text()
            );
        }
    }
}

#[test]
fn a_path_may_name_the_home_folder() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("text.txt"), text(1500)).unwrap();
    for path in ["~/text.txt", "$HOME/text.txt", "${HOME}/text.txt"] {
        let check = finish(
            mblm([
                "data",
                "check",
                str(scratch.config()),
                "--set",
                &format!("io.dataset_dir={path}"),
            ])
            .env("HOME", &home),
        );
        assert_eq!(check.code, 0, "{path} {}", check.stderr);
    }
}
