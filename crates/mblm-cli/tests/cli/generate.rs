//! `mblm generate`: prompts, sampling, what is written where.

use crate::support::{Finished, Scratch, done, finish, mblm, str, trained};

fn generate(args: &[&str]) -> Finished {
    done(&[&["generate", "-m", str(&trained().model)], args].concat())
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let of = |seed| generate(&["--prompt", "She", "-n", "29", "--seed", seed, "--raw"]).stdout;
    assert_eq!(of("7").len(), 29);
    assert_eq!(of("7"), of("7"));
    assert_ne!(of("7"), of("8"));
}

#[test]
fn raw_writes_the_generated_bytes_only_and_text_the_prompt_too() {
    let args = ["--prompt", "She w", "--max-bytes", "12", "--seed", "1"];
    let text = generate(&args);
    let raw = generate(&[&args[..], &["--raw"]].concat());
    assert_eq!(raw.stdout.len(), 12);
    assert_eq!(text.text(), format!("She w{}", String::from_utf8_lossy(&raw.stdout)));
    assert!(text.stderr.is_empty() && raw.stderr.is_empty());
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_stdin() {
    let scratch = Scratch::new();
    let file = scratch.file("prompt", "Anne");
    let args = ["-n", "8", "--seed", "3", "--raw"];
    let expected = generate(&[&["--prompt", "Anne"], &args[..]].concat()).stdout;
    assert_eq!(
        generate(&[&["--prompt-file", str(&file)], &args[..]].concat()).stdout,
        expected
    );
    let model = str(&trained().model);
    let mut command = mblm([&["generate", "-m", model, "--prompt-file", "-"], &args[..]].concat());
    assert_eq!(finish(command.write_stdin("Anne")).stdout, expected);
}

#[test]
fn a_prompt_file_need_not_be_text() {
    let scratch = Scratch::new();
    let file = scratch.file("prompt", [0xff, 0x00, 0xc3, 0x28]);
    let args = ["--prompt-file", str(&file), "-n", "6", "--seed", "3"];
    let raw = generate(&[&args[..], &["--raw"]].concat());
    assert_eq!(raw.stdout.len(), 6);
    let text = generate(&args);
    assert!(text.text().starts_with("\u{fffd}\0\u{fffd}("), "{:?}", text.text());
}

#[test]
fn an_empty_prompt_starts_from_nothing() {
    let scratch = Scratch::new();
    let empty = scratch.file("empty", "");
    let args = ["-n", "9", "--seed", "5", "--raw"];
    let expected = generate(&args).stdout;
    assert_eq!(expected.len(), 9);
    assert_eq!(generate(&[&["--prompt", ""], &args[..]].concat()).stdout, expected);
    assert_eq!(
        generate(&[&["--prompt-file", str(&empty)], &args[..]].concat()).stdout,
        expected
    );
}

#[test]
fn no_bytes_at_all_is_a_length_like_others() {
    assert!(generate(&["-n", "0", "--raw"]).stdout.is_empty());
    assert_eq!(generate(&["--prompt", "She", "--max-bytes", "0"]).text(), "She");
    assert_eq!(generate(&["-n", "0", "--json"]).json()["generated_bytes"], 0);
}

#[test]
fn the_likeliest_byte_does_not_depend_on_the_seed() {
    let of = |args: &[&str]| generate(&[&["--prompt", "She", "-n", "20", "--raw"], args].concat()).stdout;
    let greedy = of(&["--temperature", "0", "--seed", "1"]);
    assert_eq!(greedy, of(&["--temperature", "0", "--seed", "2"]));
    assert_eq!(greedy, of(&["--filter-thres", "1"]));
    assert_eq!(greedy, of(&["--top-k", "1"]));
    assert_eq!(greedy, of(&["--top-p", "1e-9"]));
    assert_ne!(greedy, of(&["--seed", "2"]));
}

#[test]
fn json_holds_prompt_continuation_and_seed() {
    let raw = generate(&["--prompt", "She", "-n", "10", "--seed", "4", "--raw"]).stdout;
    let json = generate(&["--prompt", "She", "-n", "10", "--seed", "4", "--json"]).json();
    assert_eq!(json["prompt"], "She");
    assert_eq!(json["bytes"], serde_json::json!(raw));
    assert_eq!(json["text"], String::from_utf8_lossy(&raw).as_ref());
    assert_eq!((&json["seed"], &json["generated_bytes"]), (&4.into(), &10.into()));
    assert!(json["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn without_a_length_the_context_is_filled() {
    assert_eq!(generate(&["--prompt", "She", "--raw"]).stdout.len(), 32 - 3);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let mut child = Command::new(assert_cmd::cargo::cargo_bin("mblm"))
        .args([
            "generate",
            "-m",
            str(&trained().model),
            "--prompt",
            "She",
            "--seed",
            "1",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap(); // and the pipe is closed
    let output = child.wait_with_output().unwrap();
    assert_eq!(&first, b"S");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
