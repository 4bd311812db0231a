//! Tests `mblm convert` between the Python package's files and model folders.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use mblm::checkpoint::Weights;

use crate::support::{CONFIG, Scratch, done, fails, fixture, str, trained};

/// Writes a run's YAML for the fixture `decoder_2d_st.pth`.
pub(crate) fn fixture_config(scratch: &Scratch) -> PathBuf {
    let (io, rest) = CONFIG.split_once("params:").unwrap();
    let (_, train) = rest.split_once("train:").unwrap();
    let params = "params:
  input_seq_len: 128
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [16, 8]
  hidden_dims: [32, 32]
  num_layers: [2, 2]
  block:
    - { d_state: 16, d_conv: 4, expand: 2, headdim: 16 }
    - { attn_head_dims: 16, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed }
";
    scratch.file("run.yaml", format!("{io}{params}train:{train}"))
}

/// Converts the fixture to a model folder.
pub(crate) fn fixture_folder(scratch: &Scratch) -> PathBuf {
    let folder = scratch.path("from-pth");
    let config = fixture_config(scratch);
    done(&[
        "convert",
        str(&fixture("decoder_2d_st.pth")),
        str(&folder),
        "--config",
        str(&config),
    ]);
    folder
}

/// Checks that two files hold the same tensors, bit for bit.
fn assert_equal_weights(a: &Path, b: &Path) {
    let (a, b) = (Weights::open(a).unwrap(), Weights::open(b).unwrap());
    let sorted = |weights: &Weights| {
        let mut names: Vec<String> = weights.names().map(String::from).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&a), sorted(&b));
    assert!(a.names().len() > 10);
    for name in a.names() {
        let load = |weights: &Weights| {
            let tensor = weights
                .load(name, a.shape(name).unwrap(), DType::F32, &Device::Cpu)
                .unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(load(&a), load(&b), "{name}");
    }
}

#[test]
fn weights_survive_from_pth_to_folder_and_back_twice() {
    let scratch = Scratch::new();
    let original = fixture("decoder_2d_st.pth");
    let config = fixture_config(&scratch);
    let (folder, pth, again) = (
        fixture_folder(&scratch),
        scratch.path("back.pth"),
        scratch.path("again"),
    );
    let finished = done(&["convert", str(&folder), str(&pth)]);
    assert!(
        finished.stdout.is_empty() && finished.stderr.contains("parameters in"),
        "{finished:?}"
    );
    done(&["convert", str(&pth), str(&again), "-c", str(&config)]);
    for path in [&folder, &pth, &again] {
        assert_equal_weights(&original, path);
    }
    let config = |folder: &Path| std::fs::read_to_string(folder.join("config.json")).unwrap();
    assert_eq!(config(&folder), config(&again));
    // a weights file beside its configuration needs no --config
    done(&[
        "-q",
        "convert",
        str(&again.join("model.safetensors")),
        str(&scratch.path("third.pth")),
    ]);
    assert_equal_weights(&original, &scratch.path("third.pth"));
}

#[test]
fn a_trained_model_becomes_a_pth_file() {
    let scratch = Scratch::new();
    let pth = scratch.path("trained.pth");
    done(&["convert", str(&trained().model), str(&pth)]);
    assert_equal_weights(&trained().model, &pth);
}

#[test]
fn nothing_is_overwritten_unless_forced() {
    let scratch = Scratch::new();
    let target = scratch.file("precious.pth", "precious");
    let args = ["convert", str(&trained().model), str(&target)];
    fails(&args, 2, &["precious.pth exists; give --force to overwrite it"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    done(&[&args[..], &["--force"]].concat());
    assert_equal_weights(&trained().model, &target);
    let folder = scratch.runs();
    std::fs::create_dir(folder).unwrap();
    fails(
        &["convert", str(&trained().model), str(folder)],
        2,
        &["runs exists; give --force"],
    );
}

#[test]
fn a_pth_file_needs_the_configuration_that_belongs_to_it() {
    let scratch = Scratch::new();
    let (pth, to) = (fixture("decoder_2d_st.pth"), scratch.path("model"));
    fails(
        &["convert", str(&pth), str(&to)],
        2,
        &[
            "decoder_2d_st.pth does not contain the model's architecture",
            "--config",
        ],
    );
    let other = scratch.config();
    let parts = ["decoder_2d_st.pth: tensor `", "expected", "found"];
    fails(&["convert", str(&pth), str(&to), "--config", str(other)], 1, &parts);
    assert!(!to.exists());
}

#[test]
fn a_target_named_like_another_file_is_a_mistake() {
    let scratch = Scratch::new();
    let to = scratch.path("model.safetensors");
    fails(
        &["convert", str(&trained().model), str(&to)],
        2,
        &["ends in .pth", "found the name of a .safetensors file"],
    );
    fails(
        &["convert", "/missing/model", str(&scratch.path("to.pth"))],
        1,
        &["/missing/model: No such file"],
    );
}
