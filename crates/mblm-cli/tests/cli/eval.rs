//! `mblm eval`: bits per byte of files.

use crate::support::{Scratch, done, str, trained};

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
    assert_eq!(finished.stderr, "");
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
    // English, scored by a model that has seen some
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
