//! A new user's first commands: `init`, `data info`, `train --minutes`, `runs`, and the list of
//! commands.

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
    let empty = scratch.file("empty.txt", "");
    let output = scratch.path("e.yaml");
    let init = ["init", "--data", str(&empty), "-o", str(&output)];
    fails(&init, 2, &["empty.txt", "found 0 bytes"]);
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
    // a folder of runs is its newest run, as for models
    let resumed = done(&["train", "--resume", str(&out), "--sample-bytes", "0"]);
    assert!(resumed.stderr.contains("going on from"), "{}", resumed.stderr);
    done(&["plot", str(&out)]);
    fails(
        &["runs", "compare", &first, str(scratch.data())],
        2,
        &["data.txt", "expected the folder of a run"],
    );
    fails(&["runs", "/missing"], 2, &["/missing", "found none"]);
}

#[test]
fn held_out_data_may_be_a_file() {
    let scratch = Scratch::new();
    let folder = scratch.path("all");
    std::fs::create_dir(&folder).unwrap();
    for name in ["a.txt", "b.txt", "held.txt"] {
        std::fs::write(folder.join(name), book()).unwrap();
    }
    let held = folder.join("held.txt");
    let data = format!("io.dataset_dir={}", str(&folder));
    let args = ["train", str(scratch.config()), "--sample-bytes", "0", "--set", &data];
    let held = ["--validation", str(&held), "--set", "io.dataset_args.held_out=null"];
    let run = done(&[&args[..], &held].concat());
    let bytes = book().len() as f64 / 1e3;
    let said = format!(
        "data: 2 files, {:.2} kB to learn from, 100 % text; held out: {bytes:.2} kB for validation",
        2.0 * bytes
    );
    assert!(run.stderr.contains(&said), "{said}: {}", run.stderr);
    let both = [&args[..], &held[..2]].concat();
    fails(&both, 2, &["validation", "held_out", "expected only one"]);
    let all = [
        &args[..],
        &["--validation", str(&folder), "--set", "io.dataset_args.held_out=null"],
    ]
    .concat();
    fails(&all, 1, &["beside the validation data"]);
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
    // every command is in one of the sections
    let line = finish(&mut mblm(["completions", "bash"]));
    for command in ["convert", "needle", "doctor", "runs"] {
        assert!(
            line.text().contains(command) && text.contains(&format!("  {command} ")),
            "{command}"
        );
    }
}

#[test]
fn every_key_of_a_configuration_has_a_meaning() {
    let json = done(&["config", "keys", "--json"]).json();
    let keys = json["keys"].as_array().unwrap();
    for key in keys {
        let meaning = key["meaning"].as_str().unwrap();
        assert!(
            !meaning.is_empty() && key["values"] != "any" || key["key"] == "params.block",
            "{key}"
        );
    }
    for expected in [
        "io.dataset_dir",
        "params.seq_lens",
        "params.block (mamba2).d_state",
        "train.precision",
    ] {
        assert!(keys.iter().any(|key| key["key"] == expected), "{expected}");
    }
    let found = done(&["config", "keys", "warmup"]);
    assert!(
        found.text().contains("warmup_steps_perc") && found.text().contains("0.1"),
        "{}",
        found.text()
    );
    fails(
        &["config", "keys", "learning_rte"],
        2,
        &["did you mean \"learning_rate\""],
    );
}

/// Checks a value against a JSON schema; supports the keywords that the schema of configurations
/// uses.
fn matches(value: &serde_json::Value, schema: &serde_json::Value) -> bool {
    use serde_json::Value;
    let any = |name: &str| {
        schema[name]
            .as_array()
            .is_none_or(|all| all.iter().any(|one| matches(value, one)))
    };
    let of_type = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => value.is_null(),
    };
    let typed = match &schema["type"] {
        Value::String(kind) => of_type(kind),
        Value::Array(kinds) => kinds.iter().any(|kind| of_type(kind.as_str().unwrap())),
        _ => true,
    };
    let constant = schema.get("const").is_none_or(|constant| constant == value);
    let listed = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    let items = value
        .as_array()
        .into_iter()
        .flatten()
        .all(|item| schema.get("items").is_none_or(|of| matches(item, of)));
    let required = schema["required"].as_array().into_iter().flatten();
    let required = !value.is_object()
        || required
            .into_iter()
            .all(|key| value.get(key.as_str().unwrap()).is_some());
    let properties = value
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, inner)| match schema["properties"].get(key) {
            Some(of) => matches(inner, of),
            None => schema["additionalProperties"] != Value::Bool(false),
        });
    typed && constant && listed && items && required && properties && any("anyOf") && any("oneOf")
}

#[test]
fn the_schema_takes_every_recipe_and_no_misspelt_key() {
    let printed = done(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(printed.text()).unwrap();
    let configs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut count = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("cnn") && !text.contains("params:") || path.ends_with("clevr-cnn-lstm.yaml") {
            continue; // not a byte model's configuration
        }
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert!(matches(&value, &schema), "{}", path.display());
        for key in ["io", "params", "train"] {
            let mut wrong = value.clone();
            wrong[key]["mispelt"] = 1.into();
            assert!(!matches(&wrong, &schema), "{} {key}", path.display());
        }
        count += 1;
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn the_guide_lists_the_keys_that_there_are() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/src/configuration-keys.md");
    let listed = std::fs::read_to_string(&path).unwrap();
    let keys = done(&["config", "keys", "--markdown"]);
    let expected = format!(
        "# Configuration keys\n\n`mblm config keys` prints this list.\n{}",
        keys.text()
    );
    if std::env::var_os("INSTA_UPDATE").is_some_and(|how| how == "always") {
        std::fs::write(&path, expected).unwrap();
    } else {
        assert!(
            listed == expected,
            "configuration-keys.md is old: run the tests with INSTA_UPDATE=always"
        );
    }
}

#[test]
fn a_run_says_what_it_reads_and_shows_samples() {
    let scratch = Scratch::new();
    let run = done(&["train", str(scratch.config()), "--sample-bytes", "40"]);
    assert!(run.stderr.contains("for validation (data.txt)"), "{}", run.stderr);
    assert!(run.stderr.contains("a sample: "), "{}", run.stderr);
    let images = scratch.path("images");
    std::fs::create_dir(&images).unwrap();
    for index in 0..40 {
        let png = [&b"\x89PNG\r\n\x1a\n"[..], &[index; 500]].concat();
        std::fs::write(images.join(format!("{index}.png")), png).unwrap();
    }
    let data = format!("io.dataset_dir={}", str(&images));
    let run = done(&["train", str(scratch.config()), "--sample-bytes", "0", "--set", &data]);
    assert!(run.stderr.contains("data: 36 files, "), "{}", run.stderr);
    assert!(run.stderr.contains("PNG images: data set `pictures`"), "{}", run.stderr);
    assert!(!run.stderr.contains("a sample: "), "{}", run.stderr);
}

#[test]
fn data_is_found_beside_the_configuration_from_any_folder() {
    let scratch = Scratch::new();
    let text = std::fs::read_to_string(scratch.config()).unwrap();
    let data = format!("dataset_dir: {}", str(scratch.data()));
    assert!(text.contains(&data), "{text}");
    std::fs::create_dir_all(scratch.path("sub/inner")).unwrap();
    scratch.file("sub/inner/relative.yaml", text.replace(&data, "dataset_dir: data.txt"));
    let config = scratch.path("sub/inner/relative.yaml");
    done(&[
        "train",
        str(&config),
        "--sample-bytes",
        "0",
        "--set",
        "train.target_elements=3840",
    ]);
    std::fs::write(&config, text.replace(&data, "dataset_dir: nowhere.txt")).unwrap();
    fails(&["train", str(&config)], 1, &["nowhere.txt: no such file or folder"]);
}

#[test]
fn a_dry_run_tells_the_length_in_minutes() {
    let scratch = Scratch::new();
    let run = done(&["train", str(scratch.config()), "--minutes", "0.02", "--dry-run"]);
    assert!(run.stderr.contains("seconds a step: "), "{}", run.stderr);
    assert!(run.text().contains("gradient steps of "), "{}", run.text());
    assert!(scratch.run_folders().is_empty());
}

#[test]
fn early_stopping_needs_validation_data() {
    let scratch = Scratch::new();
    let args = [
        "train",
        str(scratch.config()),
        "--set",
        "train.early_stopping=3",
        "--set",
    ];
    let held_out = "io.dataset_args.held_out=0";
    fails(
        &[&args[..], &[held_out]].concat(),
        2,
        &["train.early_stopping", "--validation"],
    );
    fails(
        &[&args[..2], &["--set", "train.early_stopping=0"]].concat(),
        2,
        &["early_stopping", "at least 1"],
    );
}

#[test]
fn the_length_of_a_preset_follows_the_data() {
    let scratch = Scratch::new();
    let data = scratch.file("small.txt", book().repeat(8));
    let passes = 10 * 8 * book().len() as u64;
    for (preset, expected) in [("tiny", 3_000_000), ("small", passes), ("medium", passes)] {
        let args = ["train", "--data", str(&data), "--preset", preset, "--dry-run", "--json"];
        let plan = done(&args).json();
        let step = plan["bytes_per_step"].as_u64().unwrap();
        let bytes = plan["batches"].as_u64().unwrap() * step;
        assert!((expected..expected + step).contains(&bytes), "{preset}: {plan}");
    }
}
