//! Tests `mblm bench`: it measures everything that is requested and nothing else. The speeds are
//! not checked.

use crate::support::{Scratch, done, fails, root, str};

const AT_ONCE: [&str; 2] = ["--seconds", "0"];

#[test]
fn training_and_generation_of_a_configuration_are_measured() {
    let scratch = Scratch::new();
    let args = ["bench", "--json", "--config", str(scratch.config())];
    let json = done(&[&args[..], &AT_ONCE].concat()).json();
    let (train, generate) = (&json["train"], &json["generate"]);
    for (part, speed) in [
        (train, "bytes_per_second"),
        (train, "product_flop_per_second"),
        (generate, "prefill_bytes_per_second"),
        (generate, "bytes_per_second"),
        (generate, "streams_bytes_per_second"),
    ] {
        let of = |key: &str| part[speed][key].as_f64().unwrap();
        assert!(of("smallest") > 0.0 && of("smallest") <= of("median") && of("median") <= of("largest"));
        assert!(of("repetitions") >= 3.0, "{json}");
    }
    assert_eq!((&train["batch_size"], &train["context"]), (&2.into(), &32.into()));
    assert_eq!((&generate["prompt"], &generate["generated"]), (&16.into(), &15.into()));
    let share = train["share_of_product"].as_f64().unwrap();
    let products = train["flop_per_second"].as_f64().unwrap();
    let limit = train["product_flop_per_second"]["median"].as_f64().unwrap();
    assert!((share - products / limit).abs() < 1e-6 * share, "{train}");
}

#[test]
fn a_named_model_and_one_part_of_it() {
    let finished = done(&[&["bench", "flat", "--what", "train", "--context", "16"], &AT_ONCE[..]].concat());
    let text = finished.text();
    for part in [
        "flat: 4_",
        "batches of 2 × 16 bytes",
        "step, s",
        "speed, kB/s",
        "% of the limit",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("generation"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    fails(&["bench", "transfomer"], 2, &["transfomer", "transformer"]);
    fails(&["bench", "--context", "1"], 2, &["--context"]);
    fails(&["bench", "--seconds=-1"], 2, &["--seconds"]);
    fails(&["bench", "--config", "none.yaml"], 2, &["none.yaml"]);
    let masked = root().join("configs/masked-bytes.yaml");
    fails(&["bench", "--config", str(&masked)], 1, &["generation needs a decoder"]);
    fails(&[&["bench", "--context", "4096"], &AT_ONCE[..]].concat(), 1, &["2048"]);
}
