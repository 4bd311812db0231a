//! Questions about images: `mblm data check`, training on `clevr`, `mblm vqa eval`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{Scratch, best_model, done, fails, finish, mblm, root, str, trained};

const CONFIG: &str = "\
io:
  name_model: vqa
  output_dir: RUNS
  dataset_dir: CLEVR
  dataset_id: clevr
  dataset_args:
    target_mode: a
    qiqa_loss_mask: [0.0, 0.0, 0.0, 1.0]
    answer_categorical: true
    resize_to_w: 6
    resize_to_h: 4
    eom_token_id: 257
    som_text_token_id: 258
    som_image_token_id: 259
  num_models_to_save: 1
  validate_amount: 2
  log_train_loss_amount: 10
params:
  input_seq_len: 192
  num_tokens: 260
  pad_token_id: 256
  seq_lens: [24, 8]
  hidden_dims: [16, 16]
  num_layers: [1, 1]
  block:
    attn_head_dims: 8
    attn_num_heads: 2
    attn_use_rot_embs: true
    pos_emb_type: fixed
train:
  target_elements: 360
  target_elements_strategy: batch
  batch_size: 3
  learning_rate: 1e-2
  gradient_clipping: 1.0
  gradient_accumulate_every: 1
";

/// The fixture's three questions for training and for validation, and a configuration that learns
/// them.
struct Questions {
    scratch: Scratch,
    data: PathBuf,
    config: PathBuf,
}

impl Questions {
    fn new() -> Self {
        let scratch = Scratch::new();
        let data = scratch.path("clevr");
        let from = root().join("crates/mblm-vision/tests/fixtures/clevr");
        for name in ["train", "val"] {
            let images = data.join("images").join(name);
            fs::create_dir_all(&images).unwrap();
            fs::create_dir_all(data.join("questions")).unwrap();
            fs::copy(
                from.join("images/val/CLEVR_val_000000.png"),
                images.join("CLEVR_val_000000.png"),
            )
            .unwrap();
            let questions = data.join(format!("questions/CLEVR_{name}_questions.json"));
            fs::write(
                questions,
                fs::read(from.join("questions/CLEVR_val_questions.json")).unwrap(),
            )
            .unwrap();
        }
        let text = CONFIG.replace("RUNS", str(scratch.runs())).replace("CLEVR", str(&data));
        let config = scratch.file("vqa.yaml", text);
        Self { scratch, data, config }
    }

    fn image(&self) -> PathBuf {
        self.data.join("images/val/CLEVR_val_000000.png")
    }
}

/// A run that has learned the three questions, shared by all tests.
fn learned() -> &'static (Questions, PathBuf) {
    static LEARNED: OnceLock<(Questions, PathBuf)> = OnceLock::new();
    LEARNED.get_or_init(|| {
        let questions = Questions::new();
        done(&["train", str(&questions.config)]);
        let run = questions.scratch.run_folders().pop().unwrap();
        (questions, run)
    })
}

#[test]
fn a_sound_data_set_is_described() {
    let questions = Questions::new();
    let text = done(&["data", "check", str(&questions.config)]);
    let lines: Vec<&str> = text.text().lines().collect();
    assert_eq!(lines[0], "train: 3 samples, nothing is wrong");
    assert_eq!(lines[1], "  1 images");
    assert_eq!(lines[2], "  questions: 1 count, 1 compare integer, 1 query attribute");
    // question 2 has 43 bytes: 45 ids twice, 6 · 4 · 3 + 2 of the image, 3 of the answer
    assert_eq!(
        lines[3],
        "  longest sample: 167 of 192 ids, question 2 (twice 45, image 74, answer 3)"
    );
    assert_eq!(lines[4], "validation: 3 samples, nothing is wrong");
    assert_eq!(lines.len(), 8);
    let json = done(&[
        "data",
        "check",
        "--data",
        str(&questions.data),
        "--split",
        "validation",
        "--json",
    ])
    .json();
    assert_eq!(json["problems"], 0);
    let split = &json["splits"][0];
    assert_eq!((&split["questions"], &split["images"]), (&3.into(), &1.into()));
    assert_eq!(split["input_seq_len"], Value::Null);
    assert_eq!(split["longest"]["ids"], 2 * 43 + 480 * 320 * 3 + 2);
}

/// The baseline's configuration is not for byte models, but its data can be checked. Other commands
/// refuse it with an explanation.
#[test]
fn the_baseline_has_a_configuration_of_its_own() {
    let questions = Questions::new();
    let recipe = root().join("configs/clevr-cnn-lstm.yaml");
    let (dir, out) = (
        format!("io.dataset_dir={}", str(&questions.data)),
        format!("io.output_dir={}", str(questions.scratch.runs())),
    );
    let set = ["--set", &dir, "--set", "io.dataset_args.resize_to_w=8"];
    let text = done(&[&["data", "check", str(&recipe)][..], &set].concat());
    let lines: Vec<&str> = text.text().lines().collect();
    assert_eq!(lines[0], "train: 3 samples, nothing is wrong");
    // 43 bytes twice, 8 · 12 · 3 values, 2 bytes of the answer
    assert!(
        lines[3].starts_with("  longest sample: 376 ids, question 2"),
        "{}",
        lines[3]
    );
    fs::write(questions.image(), "no picture").unwrap();
    assert_eq!(
        finish(&mut mblm([&["data", "check", str(&recipe)][..], &set].concat())).code,
        1
    );

    fs::copy(
        questions.data.join("images/train/CLEVR_val_000000.png"),
        questions.image(),
    )
    .unwrap();
    let small = [
        "--set",
        "train.target_elements=6",
        "--set",
        "train.batch_size=3",
        "--set",
        &out,
    ];
    let run = done(&[&["train", str(&recipe), "--json"][..], &set, &small].concat()).json();
    let part =
        "expected the configuration of a byte model, with params; this is a configuration of the CNN + LSTM baseline";
    fails(&["train", "--resume", run["run"].as_str().unwrap()], 2, &[part]);
    fails(&["plan", str(&recipe)], 2, &[part]);
    let message = finish(&mut mblm(["plan", str(&recipe)])).stderr;
    assert!(!message.contains("  "), "a run of blanks in: {message}");
}

#[test]
fn problems_are_listed_with_file_and_question() {
    let questions = Questions::new();
    let whole = fs::read(questions.image()).unwrap();
    let check = |args: &[&str]| finish(&mut mblm([&["data", "check", str(&questions.config)], args].concat()));
    // truncated, damaged, missing
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xff;
    for (bytes, part) in [
        (&whole[..whole.len() - 9], "the file is truncated"),
        (&damaged[..], "expected a PNG file"),
    ] {
        fs::write(questions.image(), bytes).unwrap();
        let finished = check(&[]);
        assert_eq!(finished.code, 1, "{finished:?}");
        let line = finished.text().lines().last().unwrap();
        assert!(line.contains(str(&questions.image())) && line.contains(part), "{line}");
        assert!(
            line.ends_with("(question 0 of CLEVR_val_questions.json names it)"),
            "{line}"
        );
    }
    fs::remove_file(questions.image()).unwrap();
    let finished = check(&["--json"]);
    assert_eq!(finished.code, 1);
    let json = finished.json();
    assert_eq!(
        (&json["problems"], &json["splits"][0]["problem_count"]),
        (&1.into(), &0.into())
    );
    let problem = &json["splits"][1]["problems"][0];
    assert_eq!(
        (&problem["file"], &problem["question"]),
        (&str(&questions.image()).into(), &0.into())
    );
    // too long: three samples in each split
    fs::write(questions.image(), &whole).unwrap();
    let finished = check(&["--set", "params.input_seq_len=120", "--limit", "2"]);
    let text = finished.text();
    assert!(text.contains("validation: 3 samples, 3 problems"), "{text}");
    assert!(
        text.contains("question 1 (CLEVR_val_000000.png): the sample has 143 ids"),
        "{text}"
    );
    assert!(text.ends_with("  1 more problem; --limit lists more\n"), "{text}");
}

#[test]
fn training_stops_at_a_wrong_data_set_before_it_begins() {
    let questions = Questions::new();
    let image = questions.image();
    fs::remove_file(&image).unwrap();
    let parts = [
        str(&image),
        "no such image",
        "(question 0 of CLEVR_val_questions.json names it)",
    ];
    fails(&["train", str(&questions.config)], 1, &parts);
    let set = "io.dataset_args.downsample_channels=0";
    let parts = ["io.dataset_args.downsample_channels: expected at least 1 bin"];
    fails(&["train", str(&questions.config), "--set", set], 2, &parts);
    assert!(questions.scratch.run_folders().is_empty());
}

#[test]
fn other_data_sets_are_read_through() {
    let scratch = &trained().scratch;
    let json = done(&["data", "check", str(scratch.config()), "--json"]).json();
    assert_eq!((&json["dataset"], &json["problems"]), (&"bytes".into(), &0.into()));
    // 18,000 of 20,000 bytes in samples of 32
    assert_eq!(json["splits"][0]["samples"], 562);
    let finished = done(&["data", "check", str(scratch.config()), "--split", "validation"]);
    assert!(finished.text().starts_with("validation: "), "{finished:?}");
    fails(&["data", "check"], 2, &["<CONFIG|--data <DIR>>"]);
}

/// `mblm vqa eval` of the shared run.
fn eval(args: &[&str]) -> crate::support::Finished {
    done(&[&["vqa", "eval", "-m", str(&learned().1)], args].concat())
}

#[test]
fn a_model_that_has_learned_its_questions_answers_them() {
    let json = eval(&["--json", "--prior"]).json();
    assert_eq!(json["split"], "validation");
    let overall = &json["overall"];
    assert_eq!(overall["questions"], 3);
    for kind in ["constrained", "free", "prior"] {
        assert_eq!(overall[kind], 1.0, "{json}");
    }
    assert_eq!(json["by_type"]["query_attribute"]["free"], 1.0);
    assert_eq!(json["by_type"]["exist"]["questions"], 0);

    let finished = eval(&[]);
    let rows: Vec<Vec<&str>> = finished
        .text()
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["type", "questions", "constrained", "%", "free", "%"]);
    assert_eq!(rows[1], ["count", "1", "100.0", "100.0"]);
    assert_eq!(rows[4], ["overall", "3", "100.0", "100.0"]);
    assert_eq!(finished.stderr, "");
}

#[test]
fn every_answer_is_a_line_and_wrong_ones_are_pictures() {
    let (questions, run) = learned();
    // answers that differ from the learned ones
    let data = Questions::new();
    let file = data.data.join("questions/CLEVR_val_questions.json");
    let text = fs::read_to_string(&file).unwrap().replace("\"green\"", "\"blue\"");
    fs::write(&file, text).unwrap();
    let [lines, sheet] = ["answers.jsonl", "wrong.png"].map(|name| data.scratch.path(name));
    let model = best_model(run);
    let args = [
        "vqa",
        "eval",
        "-m",
        str(&model),
        "--data",
        str(&data.data),
        "--batch-size",
        "2",
    ];
    let outputs = ["--jsonl", str(&lines), "--contact-sheet", str(&sheet), "--json"];
    let json = done(&[&args[..], &outputs].concat()).json();
    assert_eq!(json["by_type"]["query_attribute"]["constrained"], 0.0);
    assert_eq!(json["by_type"]["count"]["constrained"], 1.0);
    let text = fs::read_to_string(&lines).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3);
    let second = &answers[1];
    for (key, expected) in [
        ("question", "What color is the small sphere?"),
        ("question_type", "query_attribute"),
        ("answer", "blue"),
        ("constrained", "green"),
        ("free", "green"),
        ("image", "CLEVR_val_000000.png"),
    ] {
        assert_eq!(second[key], expected, "{second}");
    }
    assert_eq!(
        (&second["question_index"], &second["constrained_right"]),
        (&1.into(), &false.into())
    );
    let picture = fs::read(&sheet).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    // existing files are not overwritten without --force
    fails(
        &[&args[..], &outputs].concat(),
        2,
        &["answers.jsonl: is there already", "--force"],
    );
    let limited = done(&[&args[..], &outputs, &["--force", "--limit", "1"]].concat()).json();
    assert_eq!(limited["overall"]["questions"], 1);
    assert_eq!(fs::read_to_string(&lines).unwrap().lines().count(), 1);
    // the model's own data are unchanged
    assert!(questions.data.exists());
}

#[test]
fn what_does_not_fit_is_named() {
    let (questions, run) = learned();
    let (run, text) = (str(run), str(&trained().run));
    fails(
        &["vqa", "eval", "-m", text],
        2,
        &["io.dataset_id is bytes: expected clevr"],
    );
    fails(
        &["vqa", "eval", "-m", text, "--config", str(&questions.config)],
        2,
        &["num_tokens 260", "num_tokens 257"],
    );
    fails(
        &["vqa", "eval", "-m", run, "--split", "test"],
        2,
        &["no test split with answers"],
    );
    let parts = ["/nowhere/questions/CLEVR_val_questions.json: no such file"];
    fails(&["vqa", "eval", "-m", run, "--data", "/nowhere"], 1, &parts);
    let alone = questions.scratch.path("alone");
    copy(&best_model(Path::new(run)), &alone);
    fails(
        &["vqa", "eval", "-m", str(&alone)],
        2,
        &["no config.yaml of a run", "--config"],
    );
    done(&["vqa", "eval", "-m", str(&alone), "--config", str(&questions.config)]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
