//! Tests `mblm generate`: prompts, sampling, and the destinations of its output.

use crate::convert::fixture_folder;
use crate::support::{Finished, Scratch, done, fails, finish, mblm, str, trained};

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
    child.stdout.take().unwrap().read_exact(&mut first).unwrap(); // this also closes the pipe
    let output = child.wait_with_output().unwrap();
    assert_eq!(&first, b"S");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Generates with a model that has no limit of positions, and whose barely trained weights give
/// bytes of every kind.
fn endless(scratch: &Scratch, args: &[&str]) -> Finished {
    let mut folder = scratch.path("from-pth");
    if !folder.exists() {
        folder = fixture_folder(scratch);
    }
    done(&[&["generate", "-m", str(&folder)], args].concat())
}

#[test]
fn only_what_is_allowed_is_written() {
    let scratch = Scratch::new();
    let check = |args: &[&str], fits: fn(u8) -> bool| {
        let bytes = endless(&scratch, &[args, &["-n", "200", "--raw", "--seed", "1"]].concat()).stdout;
        assert_eq!(bytes.len(), 200, "{args:?}");
        assert!(bytes.iter().all(|byte| fits(*byte)), "{args:?}: {bytes:?}");
        // the allowed bytes vary
        assert!(
            bytes.iter().collect::<std::collections::BTreeSet<_>>().len() > 3,
            "{args:?}"
        );
    };
    check(&["--only", "a-c\\n\\xff"], |byte| {
        matches!(byte, b'a'..=b'c' | b'\n' | 255)
    });
    check(&["--only", "ascii"], |byte| byte < 128);
    check(&["--only", "printable"], |byte| {
        matches!(byte, b' '..=b'~' | b'\n' | b'\t')
    });
    check(&["--forbid", "\\x00-\\x7f"], |byte| byte > 127);
    check(&["--only", "printable", "--forbid", " -a"], |byte| {
        matches!(byte, b'b'..=b'~' | b'\n' | b'\t')
    });
}

#[test]
fn utf8_stays_valid_and_completes_the_prompts_last_character() {
    let scratch = Scratch::new();
    let prompt = scratch.file("prompt", [b'a', 0xe2, 0x82]);
    for seed in ["1", "2", "3"] {
        let args = [
            "-n",
            "101",
            "--raw",
            "--only",
            "utf8",
            "--seed",
            seed,
            "--prompt-file",
            str(&prompt),
        ];
        let bytes = endless(&scratch, &args).stdout;
        assert_eq!(bytes.len(), 101);
        let all = [&[b'a', 0xe2, 0x82], &bytes[..]].concat();
        assert!(!std::str::from_utf8(&all).unwrap().is_ascii());
        // also if most continuation bytes of characters are forbidden
        let bytes = endless(&scratch, &[&args[..], &["--forbid", "\\x80-\\x9f"]].concat()).stdout;
        assert!(!bytes.iter().any(|byte| (0x80..0xa0).contains(byte)));
        assert!(std::str::from_utf8(&[&[0xe2, 0x82], &bytes[..]].concat()).is_ok());
    }
}

/// Formats bytes for `--stop`.
fn typed(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[test]
fn a_stop_text_ends_the_sample_and_is_not_written() {
    let scratch = Scratch::new();
    let args = ["--prompt", "The ", "--seed", "5", "-n", "60"];
    let whole = endless(&scratch, &[&args[..], &["--raw"]].concat()).stdout;
    let at = whole.windows(3).position(|three| three == &whole[20..23]).unwrap();
    let stop = typed(&whole[at..at + 3]);
    // a stop text that begins like the end of the text and never completes: bytes are held back,
    // but the output is the same
    let never = typed(&[&whole[58..], &[whole[59].wrapping_add(1)], b"never"].concat());
    let of = |more: &[&str]| endless(&scratch, &[&args[..], more].concat());
    assert_eq!(of(&["--raw", "--stop", &never]).stdout, whole);
    assert_eq!(of(&["--raw", "--stop", &never, "--stop", &stop]).stdout, &whole[..at]);
    assert_eq!(of(&["--raw", "--stop", &stop, "--keep-stop"]).stdout, &whole[..at + 3]);
    let json = of(&["--json", "--stop", &stop]).json();
    assert_eq!(json["bytes"], serde_json::json!(&whole[..at]));
    assert_eq!(json["samples"][0]["end"], "stop");
    assert_eq!(
        json["samples"][0]["stop"],
        String::from_utf8_lossy(&whole[at..at + 3]).as_ref()
    );
    assert_eq!(of(&["--json"]).json()["samples"][0]["end"], "length");
    // stop texts are not searched in the prompt
    assert_eq!(of(&["--raw", "--stop", "The "]).stdout, whole);
}

#[test]
fn a_stop_id_ends_the_sample_also_a_special_one() {
    let scratch = Scratch::new();
    let args = ["--seed", "5", "-n", "60"];
    let whole = endless(&scratch, &[&args[..], &["--raw"]].concat()).stdout;
    let id = whole[30];
    let at = whole.iter().position(|byte| *byte == id).unwrap();
    let of = |more: &[&str]| endless(&scratch, &[&args[..], more].concat());
    let id = id.to_string();
    assert_eq!(of(&["--raw", "--stop-id", &id]).stdout, &whole[..at]);
    assert_eq!(of(&["--raw", "--stop-id", &id, "--keep-stop"]).stdout, &whole[..=at]);
    for only in [&[][..], &["--only", "utf8"], &["--only", "a-z"]] {
        let args = [&["--seed", "1", "-n", "20000", "--stop-id", "256", "--json"], only].concat();
        let json = endless(&scratch, &args).json();
        assert_eq!(json["samples"][0]["end"], "stop_id", "{only:?}");
        assert_eq!(json["samples"][0]["stop"], 256);
        assert!(json["generated_bytes"].as_u64().unwrap() < 20_000);
    }
}

#[test]
fn a_sample_is_the_same_whatever_the_number_of_samples() {
    let scratch = Scratch::new();
    // `e` ends the samples at different positions
    let args = [
        "--prompt",
        "It was",
        "--seed",
        "9",
        "-n",
        "70",
        "--stop-id",
        "101",
        "--json",
    ];
    let of = |more: &[&str]| endless(&scratch, &[&args[..], more].concat()).json();
    let four = of(&["--num-samples", "4"]);
    let samples = four["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 4);
    for (index, sample) in samples.iter().enumerate() {
        let number = (index + 1).to_string();
        let alone = of(&["--first-sample", &number]);
        assert_eq!(&alone["samples"][0], sample);
        assert_eq!(alone["bytes"], sample["bytes"]);
        assert_eq!(sample["sample"], index + 1);
    }
    assert_ne!(samples[0]["bytes"], samples[1]["bytes"]);
    assert_eq!(
        of(&["--first-sample", "2", "--num-samples", "2"])["samples"],
        serde_json::json!(samples[1..3])
    );
}

#[test]
fn several_samples_are_told_apart() {
    let scratch = Scratch::new();
    let args = ["--prompt", "She", "--seed", "3", "-n", "20"];
    let of = |more: &[&str]| generate(&[&args[..], more].concat());
    let json = of(&["--json", "--num-samples", "2"]).json();
    let [first, second] = [0, 1].map(|index| json["samples"][index]["text"].as_str().unwrap().to_string());
    assert_eq!(
        of(&["--num-samples", "2"]).text(),
        format!("== sample 1\nShe{first}\n== sample 2\nShe{second}\n")
    );
    let folder = scratch.path("samples");
    assert!(of(&["--num-samples", "2", "--out", str(&folder)]).stdout.is_empty());
    for (index, name) in ["sample_1", "sample_2"].iter().enumerate() {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert_eq!(serde_json::json!(bytes), json["samples"][index]["bytes"]);
    }
    let model = str(&trained().model);
    let refused = ["generate", "-m", model, "--num-samples", "2", "--raw"];
    fails(
        &refused,
        2,
        &["--raw with --num-samples 2", "give --out DIR, or --json"],
    );
}

#[test]
fn a_saved_state_goes_on_as_if_nothing_had_happened() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let state = str(&state);
    let greedy = |args: &[&str]| endless(&scratch, &[&["--temperature", "0", "--raw"], args].concat()).stdout;
    let prompt = "It is a truth universally acknowledged, that";
    let whole = greedy(&["--prompt", prompt, "-n", "60"]);
    // saves after the prompt alone, after some bytes, twice, and with a longer prompt
    greedy(&["--prompt", prompt, "-n", "0", "--save-state", state]);
    assert_eq!(greedy(&["--load-state", state, "-n", "60"]), whole);
    let first = greedy(&["--prompt", prompt, "-n", "25", "--save-state", state, "--force"]);
    assert_eq!(first, &whole[..25]);
    let second = greedy(&["--load-state", state, "-n", "3", "--save-state", state]);
    assert_eq!(second, &whole[25..28]);
    assert_eq!(greedy(&["--load-state", state, "-n", "32"]), &whole[28..]);
    let longer = scratch.file("longer", [prompt.as_bytes(), &whole[..28], b" and so"].concat());
    assert_eq!(
        greedy(&["--load-state", state, "--prompt", " and so", "-n", "20"]),
        greedy(&["--prompt-file", str(&longer), "-n", "20"])
    );
}

#[test]
fn a_state_is_that_after_what_was_written_also_where_a_stop_text_was_not() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let state = str(&state);
    let of = |args: &[&str]| endless(&scratch, &[&["--raw", "--seed", "5"], args].concat()).stdout;
    let whole = of(&["-n", "60"]);
    let stop = typed(&whole[20..24]);
    // with another stop text, bytes are held back before the stop
    let other = typed(&[&whole[18..22], b"?"].concat());
    for keep in [&[][..], &["--keep-stop"]] {
        let args = [
            "-n",
            "60",
            "--stop",
            &stop,
            "--stop",
            &other,
            "--save-state",
            state,
            "--force",
        ];
        let written = of(&[&args[..], keep].concat());
        assert_eq!(written, &whole[..if keep.is_empty() { 20 } else { 24 }]);
        let read = scratch.file("read", &written);
        assert_eq!(
            of(&["--load-state", state, "-n", "30"]),
            of(&["--prompt-file", str(&read), "-n", "30"])
        );
    }
}

#[test]
fn a_state_counts_among_fixed_positions() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let state = str(&state);
    generate(&["--prompt", "She", "-n", "9", "--save-state", state]);
    assert_eq!(generate(&["--load-state", state, "--raw"]).stdout.len(), 32 - 12);
    let model = str(&trained().model);
    fails(
        &["generate", "-m", model, "--load-state", state, "-n", "21"],
        2,
        &["12 + 21 bytes", "lower --max-bytes to 20"],
    );
    // saves a state in which all positions are used
    generate(&["--load-state", state, "-n", "20", "--save-state", state]);
    assert!(generate(&["--load-state", state, "-n", "0", "--raw"]).stdout.is_empty());
}

#[test]
fn states_that_do_not_fit() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    generate(&["--prompt", "She", "-n", "2", "--save-state", str(&state)]);
    let endless = fixture_folder(&scratch);
    let load = |model: &std::path::Path, state: &std::path::Path, parts: &[&str]| {
        fails(
            &["generate", "-m", str(model), "--load-state", str(state), "-n", "2"],
            1,
            parts,
        );
    };
    load(&endless, &state, &["state: ", "found the state of another"]);
    load(&endless, &scratch.path("missing"), &["missing"]);
    load(&endless, &scratch.file("text", "no state at all"), &["text: "]);
    load(
        &endless,
        &endless.join("model.safetensors"),
        &["expected the state of a generation"],
    );
    let args = [
        "generate",
        "-m",
        str(&endless),
        "-n",
        "2",
        "--num-samples",
        "2",
        "--save-state",
    ];
    fails(
        &[&args[..], &[str(&state)]].concat(),
        2,
        &["--save-state with --num-samples 2"],
    );
}

#[test]
fn min_p_and_the_repetition_penalty_change_what_is_likely() {
    let of =
        |args: &[&str]| generate(&[&["--prompt", "She", "-n", "29", "--raw", "--seed", "1"], args].concat()).stdout;
    let greedy = of(&["--temperature", "0"]);
    assert_eq!(of(&["--min-p", "1"]), greedy);
    assert_eq!(of(&["--min-p", "0"]), of(&[]));
    let distinct = |bytes: &[u8]| bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
    let penalised = of(&["--temperature", "0", "--repetition-penalty", "100"]);
    assert!(distinct(&penalised) > distinct(&greedy), "{penalised:?} {greedy:?}");
    let window = ["--repetition-penalty", "100", "--repetition-window", "1"];
    let narrow = of(&[&["--temperature", "0"], &window[..]].concat());
    assert!(narrow != greedy && narrow != penalised);
}

#[test]
fn options_that_make_no_sense() {
    let refused = |args: &[&str], parts: &[&str]| {
        fails(&[&["generate", "-m", str(&trained().model)], args].concat(), 2, parts);
    };
    refused(&["--min-p", "2"], &["min-p is 2: expected 0 to 1"]);
    refused(
        &["--repetition-penalty", "0"],
        &["repetition-penalty is 0: expected 0.01 to 100"],
    );
    refused(
        &["--repetition-penalty", "2", "--repetition-window", "0"],
        &["repetition-window is 0"],
    );
    refused(&["--repetition-window", "5"], &["--repetition-penalty"]);
    refused(&["--only", "z-a"], &["--only", "expected ranges from low to high"]);
    refused(&["--only", ""], &["--only"]);
    refused(&["--only", "é"], &["`é` has 2 bytes"]);
    refused(&["--only", "a", "--forbid", "a-c"], &["leave no byte"]);
    refused(&["--only", "utf8", "--forbid", "\\x00-\\xbf"], &["leave no byte"]);
    refused(&["--stop", ""], &["--stop", "expected one byte or more"]);
    refused(&["--stop", "\\q"], &["found `q`"]);
    refused(
        &["--stop-id", "257"],
        &["--stop-id 257: the model has 257 ids; give one from 0 to 256"],
    );
    refused(&["--stop-id", "97", "--forbid", "a"], &["97 can never be generated"]);
    refused(&["--num-samples", "0"], &["--num-samples"]);
    refused(&["--num-samples", "1025"], &["1..=1024"]);
    refused(&["--first-sample", "0"], &["--first-sample"]);
    refused(&["--interactive", "--json"], &["cannot be used with"]);
}
