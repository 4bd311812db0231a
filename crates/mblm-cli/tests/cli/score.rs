//! Tests `mblm score`: the surprisal of each byte of files and streams.

use serde_json::Value;

use crate::convert::fixture_folder;
use crate::support::{Finished, Scratch, done, fails, finish, mblm, str, trained};

fn score(model: &std::path::Path, args: &[&str]) -> Finished {
    done(&[&["score", "-m", str(model)], args].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn rows(finished: &Finished) -> Vec<Value> {
    let lines = finished.text().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_sum_is_that_of_an_evaluation_in_one_window() {
    let scratch = Scratch::new();
    let text = std::fs::read(scratch.data()).unwrap();
    let endless = fixture_folder(&scratch);
    for (model, lengths) in [
        (&trained().model, vec![1, 3, 4, 30, 32]),
        (&endless, vec![1, 100, 3001]),
    ] {
        for length in lengths {
            let file = scratch.file("text", &text[..length]);
            let found = score(model, &["--json", str(&file)]).json();
            let window = length.to_string();
            let expected = done(&["eval", "-m", str(model), "--json", "--context", &window, str(&file)]).json();
            let (found_bits, expected_bits) = (number(&found["bits_per_byte"]), number(&expected["bits_per_byte"]));
            assert!(
                (found_bits - expected_bits).abs() < 1e-5,
                "{length}: {found} {expected}"
            );
            assert_eq!(found["bytes"], length);
            assert_eq!(found["file"], str(&file));
            assert!((number(&found["bits"]) - found_bits * length as f64).abs() < 1e-6);
        }
    }
}

#[test]
fn the_table_by_position_covers_every_byte_once() {
    let scratch = Scratch::new();
    let model = fixture_folder(&scratch);
    let text = &std::fs::read(scratch.data()).unwrap()[..20_000];
    let file = scratch.file("text", text);
    let found = score(&model, &["--json", "--by-position", str(&file)]).json();
    let rows = found["by_position"].as_array().unwrap();
    let (mut next, mut bits) = (0, 0.0);
    for row in rows {
        assert_eq!(row["first"], next, "{found}");
        let bytes = row["bytes"].as_u64().unwrap();
        bits += bytes as f64 * number(&row["bits_per_byte"]);
        next = row["last"].as_u64().unwrap() + 1;
    }
    assert!((bits / number(&found["bits"]) - 1.0).abs() < 1e-6, "{found}");
    // the rows by position agree with the bytes one by one
    let lines = self::rows(&score(&model, &["--jsonl", str(&file)]));
    let of = |from: usize, to: usize| lines[from..to].iter().map(|row| number(&row["bits"])).sum::<f64>();
    let row = |index: usize| number(&rows[index]["bits_per_byte"]) * rows[index]["bytes"].as_f64().unwrap();
    for (index, from, to) in [(0, 0, 1), (1, 1, 2), (2, 2, 4), (10, 512, 1024), (15, 16_384, 20_000)] {
        assert!((row(index) - of(from, to)).abs() < 1e-3, "{index}: {found}");
    }
    let table = score(&model, &["--by-position", str(&file)]);
    assert!(table.text().contains("position in the context") && table.text().contains("16384-32767"));
}

#[test]
fn every_byte_has_a_line_and_the_sum_goes_to_stderr() {
    let scratch = Scratch::new();
    let model = fixture_folder(&scratch);
    let text = &std::fs::read(scratch.data()).unwrap()[..17_000];
    let file = scratch.file("text", text);
    let finished = score(&model, &["--jsonl", str(&file)]);
    let rows = rows(&finished);
    assert_eq!(rows.len(), text.len());
    for (offset, (row, byte)) in rows.iter().zip(text).enumerate() {
        assert_eq!((&row["offset"], &row["byte"]), (&offset.into(), &(*byte).into()));
        assert!(number(&row["bits"]) > 0.0);
    }
    let bits: f64 = rows.iter().map(|row| number(&row["bits"])).sum();
    let json = score(&model, &["--json", str(&file)]).json();
    assert!((bits - number(&json["bits"])).abs() < 1e-6 * bits);
    assert!(finished.stderr.starts_with("17000 bytes, "), "{}", finished.stderr);
    let summary = score(&model, &[str(&file)]);
    assert!(summary.text().starts_with("17000 bytes, ") && summary.stderr.is_empty());
    assert!(
        summary
            .text()
            .contains(&format!("{:.4} bits per byte", bits / 17_000.0)),
        "{}",
        summary.text()
    );
    assert_eq!(score(&model, &["-q", "--jsonl", str(&file)]).stderr, "");
}

#[test]
fn a_byte_is_predicted_from_all_before_it() {
    let scratch = Scratch::new();
    let model = fixture_folder(&scratch);
    let text = &std::fs::read(scratch.data()).unwrap()[..700];
    let whole = rows(&score(&model, &["--jsonl", str(&scratch.file("whole", text))]));
    let part = rows(&score(&model, &["--jsonl", str(&scratch.file("part", &text[..300]))]));
    for (whole, part) in whole.iter().zip(&part) {
        assert!((number(&whole["bits"]) - number(&part["bits"])).abs() < 1e-4);
    }
    // the context exceeds the 128 bytes of training: the first byte still has an effect after 300
    // bytes
    let other = [b"\xff", &text[1..]].concat();
    let other = rows(&score(&model, &["--jsonl", str(&scratch.file("other", other))]));
    assert!((300..700).any(|index| other[index]["bits"] != whole[index]["bits"]));
}

#[test]
fn stdin_is_scored_as_a_file_is() {
    let scratch = Scratch::new();
    let model = fixture_folder(&scratch);
    let text = &std::fs::read(scratch.data()).unwrap()[..1003];
    let expected = score(&model, &["--json", str(&scratch.file("text", text))]).json();
    for args in [
        &["score", "-m", str(&model), "--json"][..],
        &["score", "-m", str(&model), "--json", "-"],
    ] {
        let found = finish(mblm(args).write_stdin(text)).json();
        assert_eq!(found["bytes"], 1003);
        assert!((number(&found["bits_per_byte"]) - number(&expected["bits_per_byte"])).abs() < 1e-5);
        assert_eq!(found["file"], "-");
    }
}

#[test]
fn what_cannot_be_scored() {
    let scratch = Scratch::new();
    let model = str(&trained().model);
    let parts = ["fixed positions for 32 bytes", "mblm eval"];
    let data = str(scratch.data());
    fails(
        &["score", "-m", model, data],
        1,
        &[&parts[..], &["data.txt", "20000"]].concat(),
    );
    let finished = finish(mblm(["score", "-m", model, "--json"]).write_stdin("x".repeat(33)));
    assert_eq!(finished.code, 1);
    crate::support::assert_error(&finished.stderr, &[&parts[..], &["stdin"]].concat());
    let empty = scratch.file("empty", "");
    fails(
        &["score", "-m", model, str(&empty)],
        1,
        &["empty: ", "no bytes to score"],
    );
    fails(&["score", "-m", model, str(scratch.runs())], 1, &["runs"]);
    std::fs::create_dir(scratch.runs()).unwrap();
    fails(&["score", "-m", model, str(scratch.runs())], 1, &["is a folder"]);
    fails(
        &["score", "-m", model, "--json", "--jsonl"],
        2,
        &["cannot be used with"],
    );
}
