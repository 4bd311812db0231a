//! What a new user does first: `init`, `data info`, `train --minutes`, `runs`, and the list of commands.

use crate::support::{Scratch, done, fails, finish, mblm, str};

fn book() -> String {
    (0..3000)
        .map(|line| format!("line {} of a book\n", line * 7919 % 10007))
        .collect()
}

#[test]
fn init_writes_a_configuration_that_trains() {
    let scratch = Scratch::new();
    let data = scratch.file("my book.txt", book());
    let config = scratch.path("mine.yaml");
    let init = ["init", "--data", str(&data), "-o", str(&config)];
    let made = done(&init);
    assert!(made.stderr.contains("try: mblm train "), "{}", made.stderr);
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("# bytes of a sample") && text.contains("my book"),
        "{text}"
    );
    fails(&init, 2, &["mine.yaml", "is there already", "--force"]);
    done(&[&init[..], &["--force", "--gpu"]].concat());
    assert!(std::fs::read_to_string(&config).unwrap().contains("block_type: mamba2"));
    done(&[&init[..], &["--force"]].concat());
    let out = scratch.path("runs");
    let small = "train.target_elements=4096";
    let args = [
        "train",
        str(&config),
        "--set",
        small,
        "--out",
        str(&out),
        "--sample-bytes",
        "0",
    ];
    let run = done(&args);
    assert!(run.stderr.contains("100 % text; held out: "), "{}", run.stderr);
    assert!(
        run.text().contains("gzip ") && run.text().contains("this model "),
        "{}",
        run.text()
    );
    fails(
        &["init", "--data", "/missing"],
        1,
        &["/missing", "no such file or folder"],
    );
}

#[test]
fn minutes_set_the_length_of_a_run() {
    let scratch = Scratch::new();
    let args = ["train", str(scratch.config()), "--sample-bytes", "0", "--minutes"];
    let run = done(&[&args[..], &["0.02"]].concat());
    assert!(run.stderr.contains("seconds a step: "), "{}", run.stderr);
    let config = std::fs::read_to_string(scratch.run_folders()[0].join("config.yaml")).unwrap();
    assert!(!config.contains("target_elements: 3840\n"), "{config}");
    for wrong in ["0", "-1", "lots", "1e9"] {
        fails(&[&args[..], &[wrong]].concat(), 2, &["--minutes", "expected minutes"]);
    }
}

#[test]
fn the_fastest_precision_is_kept_by_the_run() {
    let scratch = Scratch::new();
    done(&[
        "train",
        str(scratch.config()),
        "--sample-bytes",
        "0",
        "--precision",
        "fastest",
    ]);
    let config = std::fs::read_to_string(scratch.run_folders()[0].join("config.yaml")).unwrap();
    assert!(
        config.contains("precision: float32") || config.contains("precision: bf16"),
        "{config}"
    );
}

#[test]
fn runs_are_listed_and_compared() {
    let scratch = Scratch::new();
    let train = ["train", str(scratch.config()), "--sample-bytes", "0"];
    done(&train);
    done(&[&train[..], &["--set", "train.seed=5", "--name", "group/other"]].concat());
    let out = scratch.path("runs");
    let listed = done(&["runs", str(&out)]);
    let rows: Vec<String> = listed.text().lines().map(String::from).collect();
    assert!(rows[0].contains("best bits/byte") && rows.len() == 3, "{rows:?}");
    assert!(rows[1..].iter().all(|row| row.contains(" done ")), "{rows:?}");
    assert!(rows[1..].iter().any(|row| row.starts_with("group/other_")), "{rows:?}");
    let json = done(&["runs", str(&out), "--json"]).json();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert!(
        runs.iter()
            .all(|run| run["best_bits"].is_f64() && run["status"] == "done"),
        "{json}"
    );
    let [first, second] = [0, 1].map(|index| runs[index]["run"].as_str().unwrap().to_string());
    let compared = done(&["runs", "compare", &first, &second]);
    assert!(compared.text().contains("train.seed"), "{}", compared.text());
    let json = done(&["runs", "compare", &first, &second, "--json"]).json();
    assert_eq!(json["keys"].as_object().unwrap().len(), 2, "{json}");
    assert_eq!(json["keys"]["train.seed"], serde_json::json!([0, 5]));
    fails(
        &["runs", "compare", &first, str(scratch.data())],
        2,
        &["data.txt", "expected the folder of a run"],
    );
    fails(&["runs", "/missing"], 2, &["/missing", "found none"]);
}

#[test]
fn data_info_tells_kinds_and_splits() {
    let scratch = Scratch::new();
    for (name, content) in [
        ("set/train/a.txt", &b"some text"[..]),
        ("set/train/b", b"\x89PNG\r\n\x1a\n"),
        ("set/valid/c.txt", b"PK\x03\x04"),
        ("set/valid/d.jsonl", b"{\"text\": \"a\"}\n"),
        ("set/valid/e", b"\xff\0\x01"),
    ] {
        let path = scratch.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let set = scratch.path("set");
    let info = done(&["data", "info", str(&set)]);
    for part in [
        "5 files",
        "PNG images",
        "a zip archive",
        "JSON Lines",
        "other bytes",
        "1 paths of train",
    ] {
        assert!(info.text().contains(part), "{part}: {}", info.text());
    }
    assert!(
        info.stderr.contains("data set `pictures`") && info.stderr.contains("not read"),
        "{}",
        info.stderr
    );
    let json = done(&["data", "info", str(&set), "--json"]).json();
    assert_eq!(
        (&json["kinds"]["text"]["files"], &json["splits"]["validation"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn the_help_lists_commands_by_sections() {
    let help = done(&["--help"]);
    let text = help.text();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
    let order = [
        "Start here:",
        "  init ",
        "  train ",
        "Models:",
        "Data:",
        "Tasks:",
        "  vqa ",
        "Machine:",
        "Options:",
    ];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{text}");
    // every command is in one of them
    let line = finish(&mut mblm(["completions", "bash"]));
    for command in ["convert", "needle", "doctor", "runs"] {
        assert!(
            line.text().contains(command) && text.contains(&format!("  {command} ")),
            "{command}"
        );
    }
}
