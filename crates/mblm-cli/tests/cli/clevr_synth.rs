//! Tests `mblm data clevr-synth`: its outputs and its errors.

use std::path::Path;

use crate::support::{Scratch, assert_error, done, fails, finish, mblm, names_in, str};

const SMALL: [&str; 6] = ["--images", "3", "--small", "--questions-per-image", "4", "--json"];

fn arguments(out: &Path) -> Vec<&str> {
    let mut arguments = vec!["data", "clevr-synth", str(out)];
    arguments.extend(SMALL);
    arguments
}

#[test]
fn a_data_set_is_made_and_counted() {
    let scratch = Scratch::new();
    let out = scratch.path("new/clevr");
    let json = done(&arguments(&out)).json();
    assert_eq!(
        (&json["images"]["train"], &json["images"]["val"]),
        (&3.into(), &1.into())
    );
    assert_eq!(json["questions"], 16);
    for counts in ["types", "answers"] {
        let sum: u64 = json[counts]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum();
        assert_eq!(sum, 16, "{counts}");
    }
    assert!(json["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(names_in(&out), ["images", "questions", "scenes"]);
    assert_eq!(names_in(&out.join("images/train")).len(), 3);
    assert_eq!(names_in(&scratch.path("new")), ["clevr"]);
    // output as text
    let out = scratch.path("words");
    let finished = done(&["data", "clevr-synth", str(&out), "--images", "3", "--small"]);
    assert!(
        finished.text().contains("4 images (3 training, 1 validation;"),
        "{}",
        finished.text()
    );
    assert!(finished.text().contains("compare integer") && finished.stderr.is_empty());
}

#[test]
fn what_is_there_is_not_overwritten_unless_asked() {
    let scratch = Scratch::new();
    let out = scratch.path("clevr");
    std::fs::create_dir(&out).unwrap();
    done(&arguments(&out));
    let questions = out.join("questions/CLEVR_val_questions.json");
    let before = std::fs::read(&questions).unwrap();
    fails(&arguments(&out), 2, &["clevr: a data set is there already", "--force"]);
    let mut forced = arguments(&out);
    forced.extend(["--force", "--seed", "5"]);
    done(&forced);
    assert_ne!(std::fs::read(&questions).unwrap(), before);
    let file = scratch.file("file", "");
    fails(
        &arguments(&file),
        2,
        &["file: expected the name of a folder to write, found a file"],
    );
    let other = scratch.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.tex"), "").unwrap();
    for force in [&[][..], &["--force"]] {
        let mut arguments = arguments(&other);
        arguments.extend(force);
        fails(
            &arguments,
            2,
            &["other: expected a new or empty folder, found thesis.tex"],
        );
    }
    assert_eq!(names_in(&other), ["thesis.tex"]);
    for bad in [
        ["--images", "0"],
        ["--max-objects", "2"],
        ["--questions-per-image", "51"],
    ] {
        let mut arguments = vec!["data", "clevr-synth", "never"];
        arguments.extend(bad);
        assert_eq!(finish(&mut mblm(arguments)).code, 2);
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let scratch = Scratch::new();
    let folder = scratch.path("full");
    std::fs::create_dir(&folder).unwrap();
    let out = folder.join("clevr");
    let mut failing = 0;
    for steps in [0, 6, 10, 14, 20, 28] {
        let mut command = mblm(arguments(&out));
        command.env("FAILPOINTS", format!("disk={steps}*off->return(full)"));
        let finished = finish(&mut command);
        assert_eq!(finished.code, 1, "{steps}: {finished:?}");
        assert_error(&finished.stderr, &[str(&out), "cannot "]);
        assert!(!finished.stderr.contains(".new.tmp"), "{}", finished.stderr);
        assert!(names_in(&folder).is_empty(), "{steps}");
        failing += 1;
    }
    assert_eq!(failing, 6);
    // a killed process leaves a temporary folder, which the next process removes
    let mut command = mblm(arguments(&out));
    command.env("FAILPOINTS", "disk=14*off->return(abort)");
    assert_ne!(finish(&mut command).code, 0);
    assert_eq!(names_in(&folder), [".clevr.new.tmp"]);
    done(&arguments(&out));
    assert_eq!(names_in(&folder), ["clevr"]);
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_nothing() {
    use std::process::{Command, Stdio};
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let scratch = Scratch::new();
        let folder = scratch.path("stopped");
        std::fs::create_dir(&folder).unwrap();
        let out = folder.join("clevr");
        let child = Command::new(assert_cmd::cargo::cargo_bin("mblm"))
            .args(["data", "clevr-synth", str(&out), "--images", "1000000", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while !folder
            .join(".clevr.new.tmp/images/train/CLEVR_train_000000.png")
            .exists()
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            said.contains("stopped: nothing was written") && output.stdout.is_empty(),
            "{said}"
        );
        assert!(names_in(&folder).is_empty());
    }
}
