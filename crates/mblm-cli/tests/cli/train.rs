//! Tests `mblm train`: progress, the run's folder, overrides, presets, dry runs.

use crate::support::{Scratch, done, finish, mblm, str, trained};

#[test]
fn progress_goes_to_stderr_in_plain_lines_and_json_alone_to_stdout() {
    let stderr = &trained().finished.stderr;
    assert!(!stderr.contains('\u{1b}') && !stderr.contains('\r'), "{stderr:?}");
    assert!(stderr.contains("batch 1/30  smoothed loss "), "{stderr}");
    assert!(stderr.contains("batch 30/30  smoothed loss "), "{stderr}");
    for part in [" bits/byte  ", " kB/s  ", " left\n", "30 batches of 4 × 32 bytes"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(stderr.contains("held-out data: "), "{stderr}");
    let json = trained().finished.json();
    assert_eq!(json["batches"], 30);
    assert_eq!(json["stopped"], false);
    assert_eq!(json["model"], str(&trained().model));
    for key in [
        "training_bits_per_byte",
        "validation_bits_per_byte",
        "test_bits_per_byte",
    ] {
        // below the 8 bits of an untrained model, above anything that 30 batches can reach
        let bits = json[key].as_f64().unwrap();
        assert!((1.0..7.5).contains(&bits), "{key}: {bits}");
    }
    // the sample ends with the model's last position
    let sample = json["sample"].as_str().unwrap();
    assert!((1..=32).contains(&sample.chars().count()), "{sample:?}");
}

#[test]
fn a_run_leaves_its_configuration_and_its_model() {
    let config = std::fs::read_to_string(trained().run.join("config.yaml")).unwrap();
    assert!(config.contains("target_elements: 3840"), "{config}");
    let model: serde_json::Value =
        serde_json::from_slice(&std::fs::read(trained().model.join("config.json")).unwrap()).unwrap();
    assert_eq!(model["kind"], "decoder");
    assert_eq!(model["config"]["hidden_dims"], serde_json::json!([16, 16]));
    // the written configuration can be used again
    done(&["train", str(&trained().run.join("config.yaml")), "--dry-run"]);
    let name = trained().run.file_name().unwrap().to_str().unwrap().to_string();
    assert!(
        name.strip_prefix("test_").unwrap().parse::<u64>().unwrap() > 1_000_000_000,
        "{name}"
    );
}

#[test]
fn without_json_a_sample_and_the_results_are_text() {
    let scratch = Scratch::new();
    let args = [
        "train",
        str(scratch.config()),
        "--set",
        "train.target_elements=256",
        "--sample-bytes",
        "5",
    ];
    let finished = done(&args);
    let text = finished.text();
    assert!(text.contains("a sample of the model:\n"), "{text}");
    assert!(
        text.contains("held-out data: ") && text.contains("test data: "),
        "{text}"
    );
    assert!(finished.stderr.contains("mblm generate -m "), "{}", finished.stderr);
}

#[test]
fn quiet_says_nothing_on_stderr() {
    let scratch = Scratch::new();
    let finished = done(&[
        "train",
        "-q",
        str(scratch.config()),
        "--set",
        "train.target_elements=256",
    ]);
    assert_eq!(finished.stderr, "");
    assert!(finished.text().contains("held-out data: "));
}

#[test]
fn a_dry_run_prints_parameters_bytes_and_memory_and_writes_nothing() {
    let scratch = Scratch::new();
    // missing data are reported after the plan
    let args = [
        "train",
        str(scratch.config()),
        "--dry-run",
        "--set",
        "io.dataset_dir=/missing",
    ];
    let finished = finish(&mut mblm(args));
    assert_eq!(finished.code, 1);
    assert!(
        finished.stderr.contains("/missing: no such file or folder"),
        "{}",
        finished.stderr
    );
    let text = finished.text();
    let parameters = done(&["inspect", str(&trained().model), "--json"]).json()["stages"][0]["parameters"].clone();
    let parameters = parameters.as_u64().unwrap().to_string();
    let (thousands, rest) = parameters.split_at(parameters.len() - 3);
    assert!(text.contains(&format!("{thousands}_{rest}")), "{text}");
    for part in [
        "decoder of 2 stages, vocabulary 257, context 32 bytes",
        "transformer",
        "30 batches, 30 gradient steps of 128 bytes each",
        " of memory",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(scratch.run_folders().is_empty());
    let more = ["--json", "--set", "train.gradient_accumulate_every=3"];
    let json = finish(&mut mblm([&args[..], &more].concat())).json();
    assert_eq!(json["bytes_per_step"], 3 * 128);
    assert_eq!(json["steps"], 10);
    assert_eq!(json["stages"].as_array().unwrap().len(), 2);
    let sum: u64 = json["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["parameters"].as_u64().unwrap())
        .sum();
    assert_eq!(json["parameters"].as_u64().unwrap(), sum + 17 * 257);
    assert!(json["memory_bytes"].as_u64().unwrap() > json["parameters"].as_u64().unwrap() * 16);
}

#[test]
fn overrides_reach_into_maps_and_lists_and_the_last_one_wins() {
    let scratch = Scratch::new();
    let config = scratch.config();
    let args = [
        "train",
        str(config),
        "--dry-run",
        "--json",
        "--set",
        "params.hidden_dims.0=32",
    ];
    let json = done(
        &[
            &args[..],
            &["--set", "train.batch_size=2", "--set", "train.batch_size=8"],
        ]
        .concat(),
    )
    .json();
    assert_eq!(
        (&json["stages"][0]["width"], &json["stages"][1]["width"]),
        (&32.into(), &16.into())
    );
    assert_eq!(json["bytes_per_step"], 8 * 32);
}

#[test]
fn out_and_seed_change_the_run() {
    let scratch = Scratch::new();
    let out = scratch.path("elsewhere/deep");
    let train = |seed: &str, name: &str| {
        let args = [
            "train",
            str(scratch.config()),
            "--json",
            "--out",
            str(&out),
            "--seed",
            seed,
        ];
        let mut command = mblm(args);
        command.args(["--set", "train.target_elements=512"]).env("JOB_ID", name);
        let finished = finish(&mut command);
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        let mut json = finished.json();
        let run = out.join(format!("test_{name}"));
        assert_eq!(json["run"], str(&run));
        assert_eq!(json["model"], str(&run.join("models/batch_4")));
        assert_eq!(json["state"], str(&run.join("states/batch_4")));
        for key in ["run", "model", "state"] {
            json[key].take();
        }
        json
    };
    let (first, same, other) = (train("1", "a"), train("1", "b"), train("2", "c"));
    assert_eq!(first, same);
    assert_ne!(first["training_bits_per_byte"], other["training_bits_per_byte"]);
    assert!(scratch.run_folders().is_empty());
}

#[test]
fn a_preset_trains_on_a_file_without_a_configuration() {
    let scratch = Scratch::new();
    let data = scratch.data();
    let args = [
        "train",
        "--data",
        str(data),
        "--preset",
        "tiny",
        "--out",
        str(scratch.runs()),
        "--json",
    ];
    let short = [
        "--set",
        "train.target_elements=2048",
        "--set",
        "train.batch_size=2",
        "--set",
        "train.max_eval_steps=1",
        "--set",
        "io.dataset_args.held_out=0.2",
    ];
    let json = done(&[&args[..], &short, &["--sample-bytes", "0"]].concat()).json();
    assert_eq!(json["batches"], 2);
    assert_eq!(json["sample"], serde_json::Value::Null);
    let [run] = &scratch.run_folders()[..] else {
        panic!("expected one run");
    };
    assert!(run.file_name().unwrap().to_str().unwrap().starts_with("tiny_"));
    // the data are too small for the larger preset, which is reported after the plan
    let of = |preset| {
        let args = ["train", "--data", str(data), "--preset", preset, "--dry-run", "--json"];
        finish(&mut mblm(args)).json()
    };
    let millions = |preset| of(preset)["parameters"].as_f64().unwrap() / 1e6;
    assert!((1.15..1.25).contains(&millions("tiny")));
    assert!((5.45..5.55).contains(&millions("small")));
}

#[test]
fn two_runs_in_the_same_second_have_their_own_folders() {
    let scratch = Scratch::new();
    let args = [
        "train",
        str(scratch.config()),
        "-q",
        "--json",
        "--set",
        "train.target_elements=128",
    ];
    let (mut first, mut second) = (spawn(&args), spawn(&args));
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    assert_eq!(scratch.run_folders().len(), 2);
}

fn spawn(args: &[&str]) -> std::process::Child {
    std::process::Command::new(assert_cmd::cargo::cargo_bin("mblm"))
        .args(args)
        .env_remove("JOB_ID")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}
