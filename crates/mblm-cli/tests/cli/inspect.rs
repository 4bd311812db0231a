//! Tests `mblm inspect` with configurations, folders and files of weights.

use crate::support::{Scratch, done, fixture, str, trained};

#[test]
fn a_configuration_a_folder_and_its_weights_show_the_same_stages() {
    let config = done(&["inspect", "--json", str(trained().scratch.config())]).json();
    let folder = done(&["inspect", "--json", str(&trained().model)]).json();
    let file = done(&["inspect", "--json", str(&trained().model.join("model.safetensors"))]).json();
    for json in [&config, &folder, &file] {
        assert_eq!(json["kind"], "decoder");
        assert_eq!(json["stages"], config["stages"]);
        assert_eq!(json["config"]["seq_lens"], serde_json::json!([8, 4]));
    }
    let stage = &config["stages"][0];
    assert_eq!((&stage["width"], &stage["layers"]), (&16.into(), &1.into()));
    assert_eq!(
        (&stage["positions"], &stage["bytes_per_position"]),
        (&8.into(), &4.into())
    );
    assert_eq!(config["tensors"], serde_json::Value::Null);
    // the parameter count of the configuration alone equals the file's
    let elements = |tensor: &serde_json::Value| -> u64 {
        tensor["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dim| dim.as_u64().unwrap())
            .product()
    };
    let stored: u64 = folder["tensors"].as_array().unwrap().iter().map(elements).sum();
    assert_eq!(config["parameters"].as_u64().unwrap(), stored);
}

#[test]
fn text_is_a_table_and_tensors_on_request() {
    let finished = done(&["inspect", str(&trained().model)]);
    assert!(
        finished
            .text()
            .contains("decoder of 2 stages, vocabulary 257, context 32 bytes")
    );
    assert!(!finished.text().contains("to_logits.weight"));
    let finished = done(&["inspect", str(&trained().model), "--tensors"]);
    let row = finished
        .text()
        .lines()
        .find(|line| line.ends_with(" to_logits.weight"))
        .unwrap()
        .to_string();
    assert!(row.contains("F32") && row.contains("[257, 16]"), "{row}");
}

#[test]
fn weights_alone_are_listed() {
    let path = fixture("decoder_2d_st.pth");
    let finished = done(&["inspect", str(&path)]);
    assert!(
        finished.text().contains("weights without a configuration"),
        "{}",
        finished.text()
    );
    assert!(finished.text().contains(" to_logits.weight"));
    let json = done(&["inspect", "--json", str(&path)]).json();
    assert_eq!(json["stages"], serde_json::Value::Null);
    let tensors = json["tensors"].as_array().unwrap();
    assert!(
        tensors
            .iter()
            .any(|t| t["name"] == "to_logits.weight" && t["dtype"] == "F32"),
        "{tensors:?}"
    );
}

#[test]
fn tensors_that_are_not_finite_are_told() {
    let scratch = Scratch::new();
    let header = r#"{"good":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"bad":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend([1.0, 2.0, f32::NAN].map(f32::to_le_bytes).concat());
    let path = scratch.file("w.safetensors", file);
    let listed = done(&["inspect", str(&path), "--tensors"]);
    let noted: Vec<String> = listed
        .text()
        .lines()
        .filter(|line| line.contains("not finite"))
        .map(String::from)
        .collect();
    assert!(noted.len() == 1 && noted[0].contains(" bad  ("), "{}", listed.text());
    let json = done(&["inspect", str(&path), "--tensors", "--json"]).json();
    for tensor in json["tensors"].as_array().unwrap() {
        assert_eq!(tensor["finite"], tensor["name"] == "good");
    }
}
