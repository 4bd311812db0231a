//! `mblm eval`: bits per byte of files and splits, by position, byte by byte.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{CONFIG, Scratch, assert_error, best_model, done, fails, finish, mblm, str, trained};

#[test]
fn every_file_has_a_row_and_several_a_total() {
    let scratch = Scratch::new();
    let short = scratch.file("short", "It is a truth");
    let model = str(&trained().model);
    let one = done(&["eval", "-m", model, str(&short)]);
    let rows: Vec<&str> = one.text().lines().collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["bytes", "bits", "per", "byte", "file"]
    );
    assert!(rows[1].trim_start().starts_with("13 "), "{rows:?}");

    let finished = done(&["eval", "-m", model, str(&short), str(scratch.data())]);
    let rows: Vec<&str> = finished.text().lines().collect();
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert!(rows[2].trim_start().starts_with("20000 "), "{rows:?}");
    assert!(
        rows[3].trim_start().starts_with("20013 ") && rows[3].ends_with("  all"),
        "{rows:?}"
    );
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert!(
        matches!(lines[..], [only] if only.starts_with("try: mblm score -m ")),
        "{lines:?}"
    );
}

#[test]
fn the_total_in_json_is_the_mean_over_all_bytes() {
    let scratch = Scratch::new();
    let short = scratch.file("short", "It is a truth universally acknowledged");
    let json = done(&[
        "eval",
        "-m",
        str(&trained().model),
        "--json",
        str(&short),
        str(scratch.data()),
    ])
    .json();
    assert_eq!(json["context_bytes"], 32);
    let files = json["files"].as_array().unwrap();
    assert_eq!(files[0]["file"], str(&short));
    let (mut bits, mut bytes) = (0.0, 0.0);
    for file in files {
        bits += file["bytes"].as_f64().unwrap() * file["bits_per_byte"].as_f64().unwrap();
        bytes += file["bytes"].as_f64().unwrap();
    }
    assert_eq!(json["bytes"].as_f64().unwrap(), bytes);
    let mean = json["bits_per_byte"].as_f64().unwrap();
    assert!((mean - bits / bytes).abs() < 1e-9);
    // English text, scored by a model that was trained on some
    assert!((1.0..7.0).contains(&mean), "{mean}");
}

#[test]
fn the_context_and_not_the_batch_size_decides_the_score() {
    let data = trained().scratch.data();
    let score = |args: &[&str]| {
        let json = done(&[&["eval", "-m", str(&trained().model), "--json", str(data)], args].concat()).json();
        (
            json["context_bytes"].as_u64().unwrap(),
            json["bits_per_byte"].as_f64().unwrap(),
        )
    };
    let whole = score(&[]);
    assert_eq!(whole.0, 32);
    assert!((score(&["--batch-size", "1"]).1 - whole.1).abs() < 1e-5);
    let short = score(&["--context", "4"]);
    assert_eq!(short.0, 4);
    assert!((short.1 - whole.1).abs() > 1e-3, "{short:?} {whole:?}");
}

/// Returns the JSON of an evaluation with the shared model.
fn json(args: &[&str]) -> Value {
    done(&[&["eval", "-m", str(&trained().model), "--json"], args].concat()).json()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn the_stride_and_not_the_batch_size_decides_the_score() {
    let data = trained().scratch.data();
    let whole = json(&[str(data)]);
    assert_eq!(whole["stride_bytes"], 32);
    let score = |args: &[&str]| number(&json(&[&[str(data)], args].concat())["bits_per_byte"]);
    assert!((score(&["--stride", "32"]) - number(&whole["bits_per_byte"])).abs() < 1e-9);
    let strided = score(&["--stride", "8"]);
    assert!(
        (strided - number(&whole["bits_per_byte"])).abs() > 1e-4,
        "{strided} {whole}"
    );
    assert!((score(&["--stride", "8", "--batch-size", "7"]) - strided).abs() < 1e-5);
}

#[test]
fn the_means_by_position_recombine_to_the_total() {
    let data = trained().scratch.data();
    for (arg, firsts) in [
        ("--by-position", vec![0, 1, 2, 4, 8, 16]),
        ("--by-position=4", vec![0, 8, 16, 24]),
    ] {
        let json = json(&[str(data), arg]);
        let rows = json["by_position"].as_array().unwrap();
        let found: Vec<u64> = rows.iter().map(|row| row["first"].as_u64().unwrap()).collect();
        assert_eq!(found, firsts);
        assert_eq!(rows[rows.len() - 1]["last"], 31);
        let bytes: f64 = rows.iter().map(|row| number(&row["bytes"])).sum();
        assert_eq!(bytes, 20_000.0);
        let bits: f64 = rows
            .iter()
            .map(|row| number(&row["bytes"]) * number(&row["bits_per_byte"]))
            .sum();
        assert!((bits / bytes - number(&json["bits_per_byte"])).abs() < 1e-6);
    }
    // windows of 1 byte contain only position 0
    let first = number(&json(&[str(data), "--by-position"])["by_position"][0]["bits_per_byte"]);
    let every_32nd: Vec<u8> = std::fs::read(data).unwrap().into_iter().step_by(32).collect();
    let scratch = Scratch::new();
    let alone = json(&[str(&scratch.file("firsts", every_32nd)), "--context", "1"]);
    assert!(
        (number(&alone["bits_per_byte"]) - first).abs() < 1e-5,
        "{first} {alone}"
    );
    let finished = done(&["eval", "-m", str(&trained().model), str(data), "--by-position"]);
    let rows: Vec<&str> = finished.text().lines().collect();
    assert!(rows[3].ends_with("position in the context"), "{rows:?}");
    assert!(
        rows[4].trim_start().starts_with("625 ") && rows[4].ends_with('█'),
        "{rows:?}"
    );
    assert!(rows[9].contains("  16-31 "), "{rows:?}");
}

#[test]
fn a_split_of_the_run_scores_as_its_bytes_in_a_file() {
    let trained = trained();
    let config = trained.run.join("config.yaml");
    // the last tenth is held out, half for validation and half for test; samples have 32 bytes
    let data = std::fs::read(trained.scratch.data()).unwrap();
    let scratch = Scratch::new();
    for (split, bytes) in [
        (&["--split", "train"][..], &data[..18_000]),
        (&[], &data[18_000..19_000]),
        (&["--split", "test"], &data[19_000..]),
    ] {
        let samples = bytes.len() / 32;
        let file = scratch.file("part", &bytes[..samples * 32]);
        let file = json(&[str(&file), "--by-position"]);
        let split = json(&[&["--config", str(&config), "--by-position", "--batch-size", "3"], split].concat());
        assert_eq!(split["split"]["samples"], samples as u64);
        assert_eq!(split["bytes"], file["bytes"]);
        assert!((number(&split["bits_per_byte"]) - number(&file["bits_per_byte"])).abs() < 1e-5);
        for (a, b) in split["by_position"]
            .as_array()
            .unwrap()
            .iter()
            .zip(file["by_position"].as_array().unwrap())
        {
            assert!((number(&a["bits_per_byte"]) - number(&b["bits_per_byte"])).abs() < 1e-4);
        }
    }
    // without a configuration, a twentieth is held out and the context is the model's
    let plain = json(&["--data", str(trained.scratch.data()), "--max-samples", "5"]);
    assert_eq!(plain["context_bytes"], 32);
    assert_eq!(plain["bytes"], 160);
    let file = json(&[str(&scratch.file("part", &data[19_000..19_160]))]);
    assert!((number(&plain["bits_per_byte"]) - number(&file["bits_per_byte"])).abs() < 1e-5);
    let text = done(&[
        "eval",
        "-m",
        str(&trained.model),
        "--config",
        str(&config),
        "--context",
        "16",
    ]);
    assert!(text.text().contains("  validation split of "), "{}", text.text());
    assert!(text.text().contains("62 samples"), "{}", text.text());
}

#[test]
fn surprisal_as_json_lines_adds_up_to_the_total() {
    let scratch = Scratch::new();
    let text = "It is a truth universally acknowledged, that a single man";
    let file = scratch.file("text", text);
    let args = [
        "eval",
        "-m",
        str(&trained().model),
        "--surprisal",
        "jsonl",
        "--stride",
        "8",
    ];
    let finished = done(&[&args[..], &[str(&file)]].concat());
    let lines: Vec<Value> = finished
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), text.len());
    let mut bits = 0.0;
    for (index, (line, byte)) in lines.iter().zip(text.bytes()).enumerate() {
        assert_eq!(
            (line["offset"].as_u64(), line["byte"].as_u64()),
            (Some(index as u64), Some(u64::from(byte)))
        );
        assert_eq!(line["file"], str(&file));
        let position = line["position"].as_u64().unwrap() as usize;
        assert!(
            if index < 32 {
                position == index
            } else {
                (24..32).contains(&position)
            },
            "{line}"
        );
        bits += number(&line["bits"]);
    }
    let total = number(&json(&["--stride", "8", str(&file)])["bits_per_byte"]);
    assert!((bits / text.len() as f64 - total).abs() < 1e-5);
    // the table is on stderr; stdin gives the same result
    assert!(finished.stderr.contains("bits per byte") && finished.stderr.contains(&format!("{total:.4}")));
    let stdin = finish(mblm([&args[..], &["-q", "-"]].concat()).write_stdin(text));
    assert_eq!((stdin.code, stdin.stderr.as_str()), (0, ""));
    let named = finished.text().replace(str(&file), "-");
    assert_eq!(String::from_utf8(stdin.stdout).unwrap(), named);
}

#[test]
fn surprisal_in_color_is_the_text_with_escapes() {
    let scratch = Scratch::new();
    let file = scratch.file("text", [b"It was caf\xc3\xa9.\n".as_slice(), &[0xff, 7]].concat());
    let args = ["eval", "-m", str(&trained().model), "--surprisal", "color", str(&file)];
    let finished = finish(mblm(args).env_remove("NO_COLOR"));
    assert_eq!(finished.code, 0, "{finished:?}");
    let mut plain = finished.text().to_string();
    assert!(plain.contains("\x1b[38;5;"), "{plain:?}");
    while let Some(start) = plain.find('\x1b') {
        let end = start + plain[start..].find('m').unwrap();
        plain.replace_range(start..=end, "");
    }
    assert_eq!(plain.replace('↵', ""), "It was café.\n\\xff\\x07\n");
    assert!(
        finished.stderr.contains("bits per character: none below 1"),
        "{}",
        finished.stderr
    );
    let finished = finish(mblm(args).env("NO_COLOR", "1"));
    assert_eq!((finished.code, finished.stdout.len()), (2, 0));
    assert_error(&finished.stderr, &["NO_COLOR is set", "--surprisal jsonl"]);
}

#[test]
fn an_encoder_is_scored_on_what_it_restores() {
    let scratch = Scratch::new();
    let (run, model) = encoder(&scratch);
    let config = run.join("config.yaml");
    let args = ["eval", "-m", str(&model), "--config", str(&config)];
    let json = done(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(json["split"]["masked"], true);
    let (masked, samples) = (number(&json["bytes"]), number(&json["split"]["samples"]));
    // the masking probability is 0.3
    assert!((0.1..0.5).contains(&(masked / samples / 32.0)), "{json}");
    let lines = done(&[&args[..], &["--surprisal", "jsonl"]].concat());
    let bits: f64 = lines
        .text()
        .lines()
        .map(|line| number(&serde_json::from_str::<Value>(line).unwrap()["bits"]))
        .sum();
    assert_eq!(lines.text().lines().count() as f64, masked);
    assert!((bits / masked - number(&json["bits_per_byte"])).abs() < 1e-4);
    fails(
        &[&args[..], &["--dataset", "bytes"]].concat(),
        2,
        &["does not mask bytes", "pg19masked"],
    );
    let parts = ["mblm eval of files needs a decoder", "--config"];
    fails(&["eval", "-m", str(&model), str(scratch.data())], 1, &parts);
    // the configuration of another kind of model
    let parts = [
        "expected the vocabulary of the model, num_tokens 257",
        "found num_tokens 258",
        "mask_token_id 257",
    ];
    fails(
        &["eval", "-m", str(&trained().model), "--config", str(&config)],
        2,
        &parts,
    );
}

/// Trains a masked-byte model on a folder of books. Returns the folders of the run and the model.
fn encoder(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (io, params) = CONFIG.split_once("params:\n  input_seq_len: 32\n").unwrap();
    let (model, train) = params.split_once("train:\n").unwrap();
    let model: String = model.lines().map(|line| format!("  {line}\n")).collect();
    let books = scratch.path("books");
    let io = io.replace("DATA", str(&books)).replace("RUNS", str(scratch.runs()));
    let io = io.replace(
        "dataset_id: bytes\n  dataset_args: { held_out: 0.1 }",
        "dataset_id: pg19masked",
    );
    let config = format!(
        "{io}params:\n  input_seq_len: 32\n  mask_token_id: 257\n  mblm_config:\n{}train:\n  masking_proba: 0.3\n{train}",
        model.replace("num_tokens: 257", "num_tokens: 258")
    );
    for split in ["train", "validation"] {
        std::fs::create_dir_all(books.join(split)).unwrap();
        std::fs::copy(scratch.data(), books.join(split).join("book.txt")).unwrap();
    }
    let config = scratch.file("encoder.yaml", config);
    done(&["train", str(&config), "--set", "train.target_elements=128", "--json"]);
    let run = scratch.run_folders().remove(0);
    let model = best_model(&run);
    (run, model)
}

#[test]
fn what_eval_cannot_do() {
    let trained = trained();
    let (data, config) = (str(trained.scratch.data()), trained.run.join("config.yaml"));
    let config = str(&config);
    let eval = |args: &[&str], parts: &[&str]| {
        fails(&[&["eval", "-m", str(&trained.model)], args].concat(), 2, parts);
    };
    eval(&[], &["required", "FILES", "--config", "--data"]);
    eval(&[data, "--stride", "0"], &["invalid value '0'", "--stride"]);
    eval(
        &[data, "--stride", "33"],
        &["a stride of 33 bytes: expected 1 to the context, which is 32"],
    );
    eval(&[data, "--context", "8", "--stride", "9"], &["which is 8"]);
    eval(
        &["--config", config, "--stride", "8"],
        &["--stride", "cannot be used with"],
    );
    eval(
        &[data, "--context", "1", "--by-position"],
        &["at least 2 bytes, found 1"],
    );
    eval(&[data, "--by-position=33"], &["expected 1 to 32 buckets", "found 33"]);
    eval(&[data, "--config", config], &["cannot be used with"]);
    eval(&[data, "--split", "test"], &["cannot be used with"]);
    eval(&["--split", "test"], &["required"]);
    eval(
        &["--config", config, "--split", "tset"],
        &["invalid value 'tset'", "test"],
    );
    eval(
        &["--config", config, "--dataset", "byte"],
        &["unknown data set `byte`", "did you mean `bytes`?"],
    );
    eval(
        &["--config", config, "--context", "64"],
        &["--context 64: the model has fixed positions for 32 bytes"],
    );
    eval(&["--config", "/missing.yaml"], &["/missing.yaml: No such file"]);
    eval(&[data, "--json", "--surprisal", "jsonl"], &["cannot be used with"]);
    let scratch = Scratch::new();
    let text = std::fs::read_to_string(config).unwrap();
    let everything = scratch.file("all.yaml", text.replace("held_out: 0.1", "held_out: 0"));
    let parts = ["--split validation: expected a split of", "try another --split"];
    eval(&["--config", str(&everything)], &parts);
    let finished = finish(mblm(["eval", "-m", str(&trained.model), "--json", "-"]).write_stdin(""));
    assert_eq!((finished.code, finished.stdout.len()), (1, 0));
    assert_error(&finished.stderr, &["-: is empty"]);
}
