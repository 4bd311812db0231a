//! Tests of mistakes: each gives one error with the place, the expected and the found value, and
//! the right exit code. The full error texts are in `snapshots/`;
//! `INSTA_UPDATE=always cargo test -p mblm-cli --test cli` rewrites them.
//!
//! Longer than 450 lines: one short test for each kind of mistake.

use crate::convert::fixture_folder;
use crate::snapshots;
use crate::support::{self, CONFIG, Scratch, assert_error, done, finish, mblm, str, trained};

/// Expects the command to fail as [`support::fails`] does, with the full error text of the
/// snapshot.
#[track_caller]
fn fails(args: &[&str], code: i32, parts: &[&str]) {
    snapshots::check_error(&support::fails(args, code, parts));
}

/// Trains with the usual configuration in which `from` is replaced by `to`; the error must contain
/// `parts`.
#[track_caller]
fn train_with(from: &str, to: &str, code: i32, parts: &[&str]) {
    assert!(CONFIG.contains(from), "{from}");
    let scratch = Scratch::with_config(&CONFIG.replacen(from, to, 1));
    fails(&["train", str(scratch.config())], code, parts);
    assert!(scratch.run_folders().is_empty());
}

/// Trains with an override; the error must contain `parts`.
#[track_caller]
fn train_set(set: &str, code: i32, parts: &[&str]) {
    let scratch = Scratch::new();
    fails(&["train", str(scratch.config()), "--set", set], code, parts);
    assert!(scratch.run_folders().is_empty());
}

#[test]
fn a_misspelt_key_is_located_and_the_nearest_named() {
    let parts = ["config.yaml:28:3: unknown key \"learning_rte\" in train; did you mean \"learning_rate\"?"];
    train_with("  learning_rate:", "  learning_rte:", 2, &parts);
    let parts = [
        "config.yaml:19:5: unknown key \"attn_num_haeds\"",
        "did you mean \"attn_num_heads\"?",
    ];
    train_with("attn_num_heads", "attn_num_haeds", 2, &parts);
    train_with(
        "params:",
        "parms:",
        2,
        &["unknown key \"parms\"", "did you mean \"params\"?"],
    );
}

#[test]
fn a_missing_key_and_a_value_of_another_kind_are_named() {
    train_with("  batch_size: 4\n", "", 2, &["missing key \"batch_size\" in train"]);
    let parts = ["config.yaml:25:15: train.batch_size: expected an integer of at least 0, found the text \"four\""];
    train_with("batch_size: 4", "batch_size: four", 2, &parts);
    train_with(
        "seq_lens: [8, 4]",
        "seq_lens: [8, 4",
        2,
        &["config.yaml:", "not valid YAML"],
    );
}

#[test]
fn dims_of_unequal_length() {
    let parts = [
        "config.yaml:",
        "params.hidden_dims: expected one entry per stage",
        "found 3, 2 and 2",
    ];
    train_with("[16, 16]", "[16, 16, 16]", 2, &parts);
    train_with("[1, 2]", "[]", 2, &["expected one entry per stage"]);
}

#[test]
fn head_widths_that_do_not_divide() {
    let mamba = "    d_state: 8\n    d_conv: 4\n    expand: 2\n    headdim: 12\n";
    let (before, rest) = CONFIG.split_once("    attn_head_dims").unwrap();
    let (_, after) = rest.split_once("train:").unwrap();
    let scratch = Scratch::with_config(&format!("{before}{mamba}train:{after}"));
    let parts = ["params.block.0.headdim: expected a divisor of expand × hidden dim = 2 × 16 = 32, found 12; try 8"];
    fails(&["train", str(scratch.config())], 2, &parts);
    let parts = ["attn_head_dims: expected an even head width", "found 7"];
    train_with("attn_head_dims: 8", "attn_head_dims: 7", 2, &parts);
    train_with(
        "attn_num_heads: 2",
        "attn_num_heads: 0",
        2,
        &["attn_num_heads: expected at least 1, found 0"],
    );
}

#[test]
fn input_longer_than_a_fixed_embedding() {
    let parts = [
        "params.input_seq_len: expected at most 8 · 4 = 32 bytes",
        "found 33",
        "pos_emb_type",
    ];
    train_with("input_seq_len: 32", "input_seq_len: 33", 2, &parts);
    let model = str(&trained().model);
    let parts = [
        "prompt and continuation are 3 + 30 bytes",
        "fixed positions for 32; lower --max-bytes to 29",
    ];
    fails(&["generate", "-m", model, "--prompt", "She", "-n", "30"], 2, &parts);
    let long = "x".repeat(40);
    for args in [&["--prompt", &long][..], &["--prompt", &long, "-n", "5"]] {
        let args = [&["generate", "-m", model], args].concat();
        fails(&args, 2, &["fixed positions for 32; shorten the prompt"]);
    }
    let data = trained().scratch.data();
    let parts = ["--context 64: the model has fixed positions for 32 bytes"];
    fails(&["eval", "-m", model, "--context", "64", str(data)], 2, &parts);
}

#[test]
fn a_prompt_that_fills_an_unlimited_context_needs_a_length() {
    let scratch = Scratch::new();
    let folder = fixture_folder(&scratch);
    let prompt = scratch.file("prompt", "x".repeat(128));
    let args = ["generate", "-m", str(&folder), "--prompt-file", str(&prompt)];
    fails(
        &args,
        2,
        &["the prompt of 128 bytes fills the model's context of 128; set --max-bytes"],
    );
    let finished = finish(&mut mblm([&args[..], &["-n", "20", "--raw"]].concat()));
    assert_eq!((finished.code, finished.stdout.len()), (0, 20));
}

#[test]
fn bytes_outside_the_vocabulary() {
    let parts = ["num_tokens is 100", "data.txt"];
    let config = CONFIG
        .replace("num_tokens: 257", "num_tokens: 100")
        .replace("id: 256", "id: 99");
    let scratch = Scratch::with_config(&config);
    fails(&["train", str(scratch.config())], 1, &parts);
    assert!(scratch.run_folders().is_empty());
    // a model with ids for letters up to z, but none for larger bytes
    let ascii = CONFIG
        .replace("num_tokens: 257", "num_tokens: 128")
        .replace("id: 256", "id: 127");
    let scratch = Scratch::with_config(&ascii);
    let text: Vec<u8> = std::fs::read(scratch.data())
        .unwrap()
        .iter()
        .map(|byte| byte % 127)
        .collect();
    scratch.file("data.txt", text);
    let finished = finish(&mut mblm([
        "train",
        str(scratch.config()),
        "--set",
        "train.target_elements=128",
    ]));
    assert_eq!(finished.code, 0, "{finished:?}");
    let model = scratch.run_folders().remove(0);
    let parts = ["id 195 is outside the model's vocabulary of 128 (0 to 127)"];
    fails(&["generate", "-m", str(&model), "--prompt", "é", "--raw"], 1, &parts);
    let high = scratch.file("high", [65, 66, 200]);
    let finished = finish(&mut mblm(["eval", "-m", str(&model), "--json", str(&high)]));
    assert_eq!(finished.code, 1);
    assert_error(&finished.stderr, &["high: ", "200", "128"]);
}

#[test]
fn empty_files() {
    let scratch = Scratch::new();
    let empty = scratch.file("empty", "");
    let set = format!("io.dataset_dir={}", str(&empty));
    fails(
        &["train", str(scratch.config()), "--set", &set],
        1,
        &["empty: the file is empty; expected data"],
    );
    fails(
        &["train", "--data", str(&empty)],
        1,
        &["empty: the file is empty; expected data"],
    );
    let config = scratch.file("empty.yaml", "");
    fails(&["train", str(&config)], 2, &["empty.yaml"]);
    fails(&["inspect", str(&config)], 2, &["empty.yaml"]);
    fails(
        &["inspect", str(&empty)],
        1,
        &["empty: the file is empty; expected a .safetensors or a torch file"],
    );
    fails(&["generate", "-m", str(&empty)], 1, &["empty: the file is empty"]);
    fails(&["verify", str(&empty)], 1, &["empty: expected a fixture"]);
    let finished = finish(&mut mblm(["eval", "-m", str(&trained().model), "--json", str(&empty)]));
    assert_eq!((finished.code, finished.stdout.len()), (1, 0));
    assert_error(&finished.stderr, &["empty: is empty: there are no bytes to score"]);
}

#[test]
fn data_too_short_for_a_sample() {
    let scratch = Scratch::new();
    let parts = [
        "validation split",
        "500 bytes are fewer",
        "raise held_out in io.dataset_args (it is 0.05)",
    ];
    fails(&["train", "--data", str(scratch.data())], 1, &parts);
    scratch.file("data.txt", "short");
    let parts = ["5 bytes are fewer than one sample needs: input_seq_len is 32"];
    fails(&["train", str(scratch.config())], 1, &parts);
}

#[test]
fn a_folder_without_a_model() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.runs()).unwrap();
    let runs = scratch.runs();
    let parts = [
        "runs: expected a model folder, but it lacks `config.json` and `model.safetensors`",
        "mblm convert",
    ];
    fails(&["generate", "-m", str(runs)], 1, &parts);
    fails(&["inspect", str(runs)], 1, &parts);
    fails(&["eval", "-m", str(runs), str(scratch.data())], 1, &parts);
    // a run folder means its best model
    let seeded = |model| done(&["generate", "-m", str(model), "-n", "20", "--seed", "1", "--raw"]).stdout;
    assert_eq!(seeded(&trained().run), seeded(&trained().model));
    assert_eq!(
        done(&["inspect", str(&trained().run), "--json"]).json()["stages"],
        done(&["inspect", str(&trained().model), "--json"]).json()["stages"]
    );
}

#[test]
fn a_folder_in_place_of_a_file() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.runs()).unwrap();
    let (runs, model) = (scratch.runs(), str(&trained().model));
    fails(
        &["train", str(runs)],
        2,
        &["runs: expected a YAML file, found a folder"],
    );
    let finished = finish(&mut mblm(["eval", "-m", model, "--json", str(runs)]));
    assert_eq!(finished.code, 1);
    assert_error(&finished.stderr, &["runs: is a folder; expected a file"]);
    fails(
        &["generate", "-m", model, "--prompt-file", str(runs)],
        1,
        &["cannot read the prompt from", "directory"],
    );
    fails(&["verify", str(runs)], 1, &["runs: "]);
    let parts = ["runs: the folder has no files"];
    fails(&["train", "--data", str(runs)], 1, &parts);
}

#[test]
fn files_that_are_not_there() {
    let model = str(&trained().model);
    fails(&["train", "/missing.yaml"], 2, &["/missing.yaml: No such file"]);
    fails(&["inspect", "/missing.yaml"], 2, &["/missing.yaml: No such file"]);
    fails(
        &["train", "--data", "/missing.txt"],
        1,
        &["/missing.txt: no such file or folder"],
    );
    train_set("io.dataset_dir=/missing", 1, &["/missing: no such file or folder"]);
    fails(&["generate", "-m", "/missing"], 1, &["/missing: No such file"]);
    fails(
        &["generate", "-m", model, "--prompt-file", "/missing"],
        1,
        &["prompt from /missing: No such file"],
    );
    fails(&["inspect", "/missing"], 1, &["/missing: No such file"]);
    // fails before any other file is scored
    let data = trained().scratch.data();
    let finished = finish(&mut mblm(["eval", "-m", model, str(data), "/missing"]));
    assert_eq!((finished.code, finished.stdout.len()), (1, 0));
    assert_error(&finished.stderr, &["/missing: No such file"]);
}

#[test]
fn data_in_place_of_a_configuration_or_a_model() {
    let scratch = Scratch::new();
    let binary = scratch.file("binary", [0xff, 0xfe, 0x00, 0x80].repeat(100));
    fails(
        &["train", str(&binary)],
        2,
        &["expected YAML in UTF-8", "is this the data?"],
    );
    fails(&["train", str(scratch.data())], 2, &["data.txt"]);
    fails(&["inspect", str(scratch.data())], 1, &["data.txt: "]);
    let file = scratch.file(
        "model.safetensors",
        std::fs::read(trained().model.join("model.safetensors")).unwrap(),
    );
    fails(
        &["generate", "-m", str(&file)],
        1,
        &["expected a config.json beside the weights", "mblm convert"],
    );
}

#[test]
fn weights_cut_short_or_of_another_shape() {
    let scratch = Scratch::new();
    let model = scratch.path("model");
    std::fs::create_dir(&model).unwrap();
    let config = std::fs::read_to_string(trained().model.join("config.json")).unwrap();
    let weights = std::fs::read(trained().model.join("model.safetensors")).unwrap();
    scratch.file("model/config.json", &config);
    scratch.file("model/model.safetensors", &weights[..weights.len() / 2]);
    fails(&["generate", "-m", str(&model)], 1, &["model.safetensors: "]);
    scratch.file("model/model.safetensors", &weights);
    let json: serde_json::Value = serde_json::from_str(&config).unwrap();
    let mut other = json.clone();
    other["config"]["num_tokens"] = 300.into();
    scratch.file("model/config.json", other.to_string());
    fails(
        &["generate", "-m", str(&model)],
        1,
        &["tensor `", "expected shape [300, 16]", "found shape [257, 16]"],
    );
    let mut other = json;
    other["config"]["hidden_dims"] = serde_json::json!([16]);
    scratch.file("model/config.json", other.to_string());
    fails(
        &["inspect", str(&model)],
        1,
        &["config.json: ", "expected one entry per stage"],
    );
}

#[test]
fn flags_that_do_not_exist_or_do_not_fit() {
    let model = str(&trained().model);
    fails(&["train"], 2, &["required arguments were not provided", "--data"]);
    fails(&["train", "a.yaml", "--data", "b"], 2, &["cannot be used with"]);
    fails(&["train", "a.yaml", "--preset", "tiny"], 2, &["cannot be used with"]);
    fails(
        &["train", "--data", "b", "--preset", "huge"],
        2,
        &["invalid value 'huge'", "tiny, small"],
    );
    fails(&["trian"], 2, &["unrecognized subcommand 'trian'", "train"]);
    fails(
        &["generate", "-m", model, "--max-byte", "3"],
        2,
        &["unexpected argument '--max-byte'", "--max-bytes"],
    );
    fails(&["generate", "-m", model, "-n", "-3"], 2, &["-3"]);
    fails(
        &["generate", "-m", model, "--prompt", "a", "--prompt-file", "b"],
        2,
        &["cannot be used with"],
    );
    fails(
        &["generate", "-m", model, "--json", "--raw"],
        2,
        &["cannot be used with"],
    );
    fails(&["generate"], 2, &["--model <PATH>"]);
    fails(&["eval", "-m", model], 2, &["FILES"]);
    fails(
        &["eval", "-m", model, "x", "--context", "0"],
        2,
        &["invalid value '0'", "--context"],
    );
    fails(
        &["eval", "-m", model, "x", "--batch-size", "0"],
        2,
        &["invalid value '0'", "--batch-size"],
    );
}

#[test]
fn sampling_options_out_of_range() {
    let generate = |args: &[&str], parts: &[&str]| {
        fails(&[&["generate", "-m", str(&trained().model)], args].concat(), 2, parts);
    };
    generate(
        &["--temperature=-1"],
        &["temperature is -1: expected 0 (greedy) or a positive number"],
    );
    generate(&["--temperature", "nan"], &["temperature is NaN"]);
    generate(&["--top-k", "0"], &["top-k is 0", "expected 1 (greedy) or more"]);
    generate(
        &["--top-p", "1.5"],
        &["top-p is 1.5: expected more than 0 and at most 1"],
    );
    generate(&["--filter-thres", "2"], &["filter-thres is 2: expected 0 to 1"]);
    generate(&["--filter-thres", "0.5", "--top-k", "3"], &["cannot be used with"]);
}

#[test]
fn overrides_that_make_no_sense() {
    train_set(
        "train.learning_rate",
        2,
        &["--set train.learning_rate: expected KEY=VALUE"],
    );
    let parts = [
        "--set train.lerning_rate=1: unknown key \"lerning_rate\"",
        "did you mean \"learning_rate\"?",
    ];
    train_set("train.lerning_rate=1", 2, &parts);
    train_set(
        "params.seq_lens.5=3",
        2,
        &["--set params.seq_lens.5=3: params.seq_lens: expected an index below 2"],
    );
    train_set(
        "train.learning_rate=fast",
        2,
        &["--set train.learning_rate=fast: train.learning_rate: expected a number"],
    );
    train_set(
        "train.learning_rate=-1",
        2,
        &["train.learning_rate: expected a finite number of at least 0, found -1"],
    );
    train_set("=3", 2, &["--set =3"]);
    train_set(
        "train.target_elements=0",
        2,
        &["train.target_elements: expected at least one batch, 128 elements, found 0"],
    );
}

#[test]
fn unknown_blocks_and_data_sets_also_in_a_dry_run() {
    let scratch = Scratch::new();
    let config = scratch.config();
    let block = ["--set", "params.block.block_type=transfomer"];
    let parts = ["stage 1: block_type \"transfomer\" is not known; did you mean \"transformer\"?"];
    for dry in [&[][..], &["--dry-run"]] {
        fails(&[&["train", str(config)], &block[..], dry].concat(), 2, &parts);
        let args = [&["train", str(config), "--set", "io.dataset_id=byte"], dry].concat();
        fails(
            &args,
            2,
            &["unknown data set `byte` (io.dataset_id)", "did you mean `bytes`?"],
        );
    }
    assert!(scratch.run_folders().is_empty());
    train_set(
        "io.dataset_args={held_oot: 0.1}",
        2,
        &["dataset_args: unknown field `held_oot`, expected one of `held_out`"],
    );
}

#[test]
fn devices_that_are_not_there() {
    let model = str(&trained().model);
    fails(
        &["generate", "-m", model, "--device", "tpu"],
        2,
        &["--device: expected auto, cpu, cuda or cuda:N, found `tpu`"],
    );
    let scratch = Scratch::new();
    let parts =
        ["--device: cuda:0 cannot be opened: this program was built without CUDA; build it with the feature cuda"];
    fails(&["generate", "-m", model, "--device", "cuda:0"], 2, &parts);
    fails(&["train", str(scratch.config()), "--device", "cuda:0"], 2, &parts);
    fails(
        &["eval", "-m", model, str(scratch.data()), "--device", "cuda:0"],
        2,
        &parts,
    );
}

#[test]
fn outputs_that_cannot_be_written() {
    let scratch = Scratch::new();
    // a file in place of a folder fails for every user, even root
    let file = scratch.file("file", "in the way");
    let inside = file.join("runs");
    let parts = ["cannot make the "];
    fails(
        &["train", str(scratch.config()), "--out", str(&inside)],
        1,
        &[str(&inside), parts[0]],
    );
    fails(
        &["train", str(scratch.config()), "--out", str(&file)],
        1,
        &[str(&file), parts[0]],
    );
    fails(
        &["convert", str(&trained().model), str(&file.join("model"))],
        1,
        &["cannot make the folder: "],
    );
    fails(
        &["convert", str(&trained().model), str(&file.join("a.pth"))],
        1,
        &["cannot write the file: "],
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
}

#[test]
fn an_encoder_neither_generates_nor_scores_text() {
    let params = CONFIG.split_once("params:\n  input_seq_len: 32\n").unwrap();
    let (model, train) = params.1.split_once("train:\n").unwrap();
    let model: String = model.lines().map(|line| format!("  {line}\n")).collect();
    let config = format!(
        "{}params:\n  input_seq_len: 32\n  mask_token_id: 257\n  mblm_config:\n{}train:\n  masking_proba: 0.2\n{train}",
        params.0,
        model.replace("num_tokens: 257", "num_tokens: 258")
    );
    let scratch = Scratch::with_config(&config);
    // an encoder cannot learn from a data set without masked bytes
    fails(&["train", str(scratch.config())], 2, &["pg19masked"]);
    for split in ["train", "validation"] {
        std::fs::create_dir_all(scratch.path("books").join(split)).unwrap();
        std::fs::copy(scratch.data(), scratch.path("books").join(split).join("a.txt")).unwrap();
    }
    let books = format!("io.dataset_dir={}", str(&scratch.path("books")));
    let sets = [
        "--set",
        &books,
        "--set",
        "io.dataset_id=pg19masked",
        "--set",
        "io.dataset_args=null",
    ];
    let args = [
        &["train", str(scratch.config()), "--set", "train.target_elements=128"],
        &sets[..],
    ]
    .concat();
    let finished = finish(&mut mblm(args));
    assert_eq!(finished.code, 0, "{finished:?}");
    let model = scratch.run_folders().remove(0);
    fails(&["generate", "-m", str(&model)], 1, &["mblm generate", "decoder"]);
    fails(
        &["eval", "-m", str(&model), str(scratch.data())],
        1,
        &["mblm eval", "decoder"],
    );
    // a decoder cannot learn from masked bytes
    let decoder = Scratch::new();
    let args = [&["train", str(decoder.config())], &sets[..]].concat();
    fails(
        &args,
        2,
        &["masked-byte training needs params.mask_token_id and train.masking_proba"],
    );
}

#[test]
fn a_loss_that_is_not_finite_has_its_own_code() {
    let scratch = Scratch::new();
    let sets = [
        "--set",
        "train.learning_rate=1e30",
        "--set",
        "train.gradient_clipping=null",
        "--set",
        "io.validate_amount=0",
        "--set",
        "train.save_state_every=1",
    ];
    let finished = finish(&mut mblm([&["train", str(scratch.config())], &sets[..]].concat()));
    assert_eq!(finished.code, 3, "{finished:?}");
    assert!(finished.stdout.is_empty());
    assert_error(
        &finished.stderr,
        &[
            "the loss is ",
            "at batch ",
            "the last good state is ",
            "states/batch_1;",
            "try a lower learning rate",
        ],
    );
}
