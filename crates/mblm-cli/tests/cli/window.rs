//! Tests `mblm generate` with long prompts and prompts from files.

use crate::support::{Finished, Scratch, done, fails, str, trained};

fn generate(args: &[&str]) -> Finished {
    done(&[&["generate", "-m", str(&trained().model)], args].concat())
}

#[test]
fn a_prompt_beyond_the_context_is_refused_cropped_or_slid_over() {
    let scratch = Scratch::new();
    let model = str(&trained().model);
    let long = scratch.file("long", "She was not ill-tempered. ".repeat(200));
    let of = |args: &[&'static str]| {
        let mut all = vec!["generate", "-m", model, "--prompt-file", str(&long), "--seed", "3"];
        all.extend(args);
        all
    };
    fails(&of(&[]), 2, &["5200", "--window crop", "--window slide"]);
    let cropped = done(&of(&["--window", "crop", "--raw"]));
    assert!(!cropped.stdout.is_empty());
    let slid = done(&of(&["--window", "slide", "-n", "700", "--raw"]));
    assert_eq!(slid.stdout.len(), 700);
    let two = done(&of(&["--window", "slide", "-n", "300", "--num-samples", "2", "--json"])).json();
    assert_eq!(two["samples"][1]["generated_bytes"], 300);
    let second = done(&of(&[
        "--window",
        "slide",
        "-n",
        "300",
        "--first-sample",
        "2",
        "--json",
    ]))
    .json();
    assert_eq!(two["samples"][1]["text"], second["samples"][0]["text"]);
    fails(
        &of(&["--window", "crop", "-n", "100000"]),
        2,
        &["--window crop", "--window slide"],
    );
    fails(&of(&["--window", "half"]), 2, &["half", "slide"]);
}

#[test]
fn a_seed_from_the_clock_is_exact_in_json() {
    let json = generate(&["-n", "1", "--json"]).json();
    assert!(json["seed"].as_u64().unwrap() < 1 << 53);
}

#[test]
fn a_prompt_file_need_not_be_text() {
    let scratch = Scratch::new();
    let file = scratch.file("prompt", [0xff, 0x00, 0xc3, 0x28]);
    let args = ["--prompt-file", str(&file), "-n", "6", "--seed", "3"];
    let raw = generate(&[&args[..], &["--raw"]].concat());
    assert_eq!(raw.stdout.len(), 6);
    let text = generate(&[&args[..], &["--echo"]].concat());
    assert!(text.text().starts_with("\u{fffd}\0\u{fffd}("), "{:?}", text.text());
    // a prompt file may be a whole book: it is printed only on request
    let alone = generate(&args);
    let alone = alone.text();
    assert!(
        text.text().ends_with(alone) && alone.len() < text.text().len(),
        "{alone:?}"
    );
}
