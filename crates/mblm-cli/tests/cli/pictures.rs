//! Images without questions: training on data set `pictures`, `mblm generate --pictures`,
//! `mblm data check` of a folder of images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mblm_vision::image::Image;
use serde_json::Value;

use crate::support::{Scratch, best_model, done, fails, finish, mblm, names_in, str, trained};

const CONFIG: &str = "\
io:
  name_model: pictures
  output_dir: RUNS
  dataset_dir: IMAGES
  dataset_id: pictures
  dataset_args:
    resize_to_w: 6
    resize_to_h: 4
    ARGS
    eom_token_id: 257
    som_image_token_id: 258
  num_models_to_save: 1
  validate_amount: 2
  log_train_loss_amount: 10
params:
  input_seq_len: LEN
  num_tokens: 259
  pad_token_id: 256
  seq_lens: [PATCHES, 8]
  hidden_dims: [16, 16]
  num_layers: [1, 1]
  block:
    attn_head_dims: 8
    attn_num_heads: 2
    attn_use_rot_embs: true
    pos_emb_type: fixed
train:
  target_elements: TARGET
  target_elements_strategy: batch
  batch_size: 4
  learning_rate: 1e-2
  gradient_clipping: 1.0
  gradient_accumulate_every: 1
";

/// A run on synthetic images, and the output of its training.
struct Drawing {
    scratch: Scratch,
    config: PathBuf,
    run: PathBuf,
    stderr: String,
    stdout: Vec<u8>,
}

impl Drawing {
    /// Trains on 8 images with further options of the data set; `patches` of 8 bytes hold the
    /// longest image.
    fn learn(options: &str, patches: usize, target: usize) -> Self {
        let scratch = Scratch::new();
        let data = scratch.path("synth");
        let sizes = [
            "--images",
            "8",
            "--val-images",
            "4",
            "--small",
            "--questions-per-image",
            "1",
        ];
        done(&[&["data", "clevr-synth", str(&data)], &sizes[..]].concat());
        let text = CONFIG
            .replace("RUNS", str(scratch.runs()))
            .replace("IMAGES", str(&data.join("images")))
            .replace("ARGS", options)
            .replace("LEN", &(8 * patches).to_string())
            .replace("PATCHES", &patches.to_string())
            .replace("TARGET", &target.to_string());
        let config = scratch.file("pictures.yaml", text);
        let finished = done(&["train", str(&config)]);
        let run = scratch.run_folders().pop().unwrap();
        Self {
            config,
            run,
            stderr: finished.stderr,
            stdout: finished.stdout,
            scratch,
        }
    }

    /// Runs `generate --pictures` into the folder `name`. Returns the folder and the JSON.
    fn draw(&self, name: &str, args: &[&str]) -> (PathBuf, Value) {
        let folder = self.scratch.path(name);
        let words = ["generate", "-m", str(&self.run), "--pictures", str(&folder), "--json"];
        let json = done(&[&words[..], args].concat()).json();
        (folder, json)
    }
}

/// A run on pixels, shared by all tests.
fn pixels() -> &'static Drawing {
    static PIXELS: OnceLock<Drawing> = OnceLock::new();
    PIXELS.get_or_init(|| Drawing::learn("crop_w_perc: 0.1\n    crop_h_perc: 0.1", 10, 160))
}

#[test]
fn pixels_become_png_files_of_their_size() {
    let drawing = pixels();
    let (folder, json) = drawing.draw("drawn", &["--num-samples", "3", "--seed", "1", "--temperature", "0.5"]);
    let pictures = json["pictures"].as_array().unwrap();
    assert_eq!((pictures.len(), names_in(&folder).len()), (3, 3));
    let mut decode = 0;
    for (index, picture) in pictures.iter().enumerate() {
        let path = Path::new(picture["file"].as_str().unwrap());
        let bytes = fs::read(path).unwrap();
        if picture["decodes"] == true {
            decode += 1;
            assert!(path.ends_with(format!("picture_{}.png", index + 1)), "{picture}");
            let decoded = Image::decode(&bytes).unwrap();
            assert_eq!((decoded.width, decoded.height), (6, 4));
            assert_eq!((&picture["bytes"], &picture["problem"]), (&72.into(), &Value::Null));
        } else {
            assert!(path.ends_with(format!("picture_{}.bytes", index + 1)), "{picture}");
            assert_eq!(picture["bytes"], bytes.len());
            assert_eq!(picture["problem"], format!("ended after {} of 72 bytes", bytes.len()));
        }
    }
    assert_eq!(json["decode"], decode);
    assert!(decode > 0, "{json}");
    // sample 3 is the same when generated alone, from the model's folder with the run's
    // configuration
    let alone = drawing.scratch.path("alone");
    let model = best_model(&drawing.run);
    let words = [
        "generate",
        "-m",
        str(&model),
        "--config",
        str(&drawing.config),
        "--pictures",
    ];
    let options = [
        str(&alone),
        "--first-sample",
        "3",
        "--seed",
        "1",
        "--temperature",
        "0.5",
    ];
    let finished = done(&[&words[..], &options].concat());
    let third = names_in(&alone).remove(0);
    assert_eq!(
        fs::read(alone.join(&third)).unwrap(),
        fs::read(folder.join(&third)).unwrap()
    );
    assert!(finished.text().ends_with("of 1 images decode\n"), "{finished:?}");
}

#[test]
fn training_says_how_to_draw_and_prints_no_sample() {
    let drawing = pixels();
    let hint = format!("try: mblm generate -m {} --pictures DIR", drawing.run.display());
    assert!(drawing.stderr.contains(&hint), "{}", drawing.stderr);
    let text = String::from_utf8(drawing.stdout.clone()).unwrap();
    assert!(text.contains("held-out data: ") && !text.contains("a sample"), "{text}");
}

#[test]
fn pictures_that_are_there_are_replaced_only_if_asked() {
    let drawing = pixels();
    let folder = drawing.scratch.path("kept");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("picture_2.bytes"), "mine").unwrap();
    let words = [
        "generate",
        "-m",
        str(&drawing.run),
        "--pictures",
        str(&folder),
        "--num-samples",
        "2",
    ];
    fails(
        &words,
        2,
        &["picture_2.bytes: is there already", "--force to replace it"],
    );
    assert_eq!(names_in(&folder), ["picture_2.bytes"]);
    // complete images replace it
    done(&[&words[..], &["--force", "--temperature", "0"]].concat());
    assert_eq!(names_in(&folder), ["picture_1.png", "picture_2.png"]);
}

#[test]
fn files_of_an_untrained_model_do_not_decode_and_are_written() {
    // one step is not enough to learn the start of a JPEG file
    let drawing = Drawing::learn("enable_jpeg_stream_with_quality: 5", 120, 4);
    let folder = drawing.scratch.path("drawn");
    let words = [
        "generate",
        "-m",
        str(&drawing.run),
        "--pictures",
        str(&folder),
        "--seed",
        "2",
        "--num-samples",
        "2",
    ];
    let finished = done(&words);
    let lines: Vec<&str> = finished.text().lines().collect();
    assert_eq!(names_in(&folder), ["picture_1.jpg", "picture_2.jpg"]);
    for (index, line) in lines[..2].iter().enumerate() {
        let start = format!(
            "{}: does not decode: ",
            folder.join(format!("picture_{}.jpg", index + 1)).display()
        );
        assert!(line.starts_with(&start) && line.len() > start.len(), "{line}");
    }
    assert_eq!(lines[2..], ["0 of 2 images decode"]);
    let (_, json) = drawing.draw("again", &["--seed", "2"]);
    assert_eq!(
        json["pictures"][0]["bytes"],
        fs::metadata(folder.join("picture_1.jpg")).unwrap().len()
    );
    assert_eq!(json["pictures"][0]["decodes"], false);
}

#[test]
fn wrong_usages_are_named() {
    let drawing = pixels();
    let (run, folder) = (str(&drawing.run), drawing.scratch.path("none"));
    let with = |args: &[&str]| {
        let words = ["generate", "-m", run, "--pictures", str(&folder)];
        finish(&mut mblm([&words[..], args].concat()))
    };
    for args in [
        &["--prompt", "a"][..],
        &["--prompt-file", "a"],
        &["--out", "a"],
        &["--interactive"],
        &["--raw"],
        &["--save-state", "a"],
        &["--load-state", "a"],
        &["--max-bytes", "3"],
        &["--only", "utf8"],
        &["--stop", "a"],
        &["--echo"],
    ] {
        let finished = with(args);
        assert_eq!(finished.code, 2, "{args:?}: {finished:?}");
        assert!(
            finished.stderr.contains("cannot be used with"),
            "{args:?}: {}",
            finished.stderr
        );
    }
    assert!(!folder.exists());
    fails(&["generate", "-m", run, "--force"], 2, &["--force", "--out"]);
    // models trained on text
    let text = trained();
    let words = ["generate", "-m", str(&text.run), "--pictures", str(&folder)];
    fails(&words, 2, &["io.dataset_id is bytes: expected pictures"]);
    let other = ["--config", str(&drawing.config)];
    fails(&[&words[..], &other].concat(), 2, &["vocabulary, num_tokens 259"]);
    // a model folder without its run
    let bare = drawing.scratch.path("bare");
    fs::create_dir(&bare).unwrap();
    for entry in fs::read_dir(best_model(&drawing.run)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, bare.join(path.file_name().unwrap())).unwrap();
    }
    let words = ["generate", "-m", str(&bare), "--pictures", str(&folder)];
    fails(&words, 2, &["no config.yaml of a run", "how images become ids"]);
}

#[test]
fn a_check_reads_every_picture_and_names_what_is_wrong() {
    let drawing = pixels();
    let images = drawing.scratch.path("check");
    for split in ["train", "val"] {
        fs::create_dir_all(images.join(split)).unwrap();
        for entry in fs::read_dir(drawing.scratch.path("synth/images").join(split)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, images.join(split).join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::write(images.join("val/notes.txt"), "no picture").unwrap();
    let words = ["data", "check", str(&drawing.config), "--data", str(&images)];
    let text = done(&words);
    assert!(
        text.stderr
            .contains("1 other file is left out: expected names that end in .png"),
        "{text:?}"
    );
    assert!(
        text.text().starts_with("train: 8 samples, nothing is wrong\n"),
        "{text:?}"
    );
    let damaged = [1, 3].map(|index| {
        let path = images.join("val").join(names_in(&images.join("val")).remove(index));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        fs::write(&path, bytes).unwrap();
        format!("{}: expected a PNG file", path.display())
    });
    let finished = finish(&mut mblm(words));
    assert_eq!(finished.code, 1, "{finished:?}");
    for part in ["validation: 4 samples, 2 problems\n", &damaged[0], &damaged[1]] {
        assert!(finished.text().contains(part), "{part}: {finished:?}");
    }
    let finished = finish(&mut mblm([&words[..], &["--limit", "1"]].concat()));
    let text = finished.text();
    assert!(text.contains("  1 more problem; --limit lists more\n"), "{finished:?}");
    assert!(
        text.contains(&damaged[0]) && !text.contains(&damaged[1]),
        "{finished:?}"
    );
}
