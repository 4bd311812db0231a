//! Tests `mblm verify`: fixtures that this machine reproduces, and one that it does not.

use crate::support::{Scratch, done, fails, finish, fixture, mblm, str};

#[test]
fn known_numbers_are_reproduced() {
    let paths = [
        "decoder_2d_st.safetensors",
        "encoder_2d_ee.safetensors",
        "train_2d_st.safetensors",
    ]
    .map(fixture);
    let finished = done(&["verify", str(&paths[0]), str(&paths[1]), str(&paths[2])]);
    let text = finished.text();
    for part in [
        "loss",
        "logits",
        "hidden_state",
        "gradients",
        "greedy bytes",
        "learning rates",
        "gradient norms",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        text.contains("all within bounds on cpu") && !text.contains("FAILED"),
        "{text}"
    );
}

#[test]
fn json_holds_every_comparison_with_its_bound() {
    let path = fixture("decoder_1d_t.safetensors");
    let json = done(&["verify", "--json", str(&path)]).json();
    assert_eq!(json["passed"], true);
    let comparisons = json["fixtures"][0]["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 5);
    for comparison in comparisons {
        assert!(
            comparison["error"].as_f64().unwrap() <= comparison["bound"].as_f64().unwrap(),
            "{comparison}"
        );
    }
}

#[test]
fn a_damaged_fixture_fails_and_names_the_worst_gradient() {
    let scratch = Scratch::new();
    let mut bytes = std::fs::read(fixture("decoder_1d_t.safetensors")).unwrap();
    let name = "grad.to_logits.bias";
    // the header of a safetensors file: its length as 8 bytes, then JSON with offsets into the data
    // after it
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = 8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 4].copy_from_slice(&100f32.to_le_bytes());
    let damaged = scratch.file("damaged.safetensors", bytes);

    let finished = finish(&mut mblm(["verify", str(&damaged)]));
    assert_eq!(finished.code, 1, "{finished:?}");
    let failed: Vec<&str> = finished.text().lines().filter(|line| line.contains("FAILED")).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(
        failed[0].contains("gradients") && failed[0].ends_with("FAILED to_logits.bias"),
        "{failed:?}"
    );
    assert!(failed[1].starts_with("FAILED on cpu"), "{failed:?}");
    let finished = finish(&mut mblm(["verify", "--json", str(&damaged)]));
    assert_eq!((finished.code, &finished.json()["passed"]), (1, &false.into()));
}

#[test]
fn what_is_no_fixture_is_said_so() {
    let scratch = Scratch::new();
    fails(
        &["verify", str(scratch.data())],
        1,
        &["data.txt: expected a fixture in the safetensors format"],
    );
    fails(
        &["verify", "/missing.safetensors"],
        1,
        &["/missing.safetensors: No such file"],
    );
}

#[test]
fn completions_are_printed_for_each_shell() {
    for (shell, part) in [
        ("bash", "complete -F _mblm"),
        ("zsh", "#compdef mblm"),
        ("fish", "complete -c mblm"),
    ] {
        assert!(done(&["completions", shell]).text().contains(part), "{shell}");
    }
    fails(&["completions", "cmd"], 2, &["invalid value 'cmd'"]);
}
