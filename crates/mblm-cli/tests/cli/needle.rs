//! Tests `mblm needle`: the table of found values, its figure, and the settings taken from a run.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{CONFIG, Scratch, done, fails, finish, mblm, str, trained};

/// Options for needles of six bytes and queries of eight, for a model with 32 bytes of context.
const SMALL: [&str; 8] = [
    "--option",
    "needle_format=<{key}:{value}>",
    "--option",
    "query_format=<{key}?  {value}>",
    "--option",
    "key_len=2",
    "--option",
    "value_len=1",
];

/// Returns the arguments that test the shared model on its data.
fn needle<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let model = trained();
    let begin = ["needle", "-m", str(&model.model), "--data", str(model.scratch.data())];
    [&begin[..], &SMALL, args].concat()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn the_table_has_a_row_a_length_and_a_column_a_depth() {
    let finished = done(&needle(&[
        "--lengths",
        "24,32B",
        "--depths",
        "0,50,100",
        "--samples",
        "3",
    ]));
    let lines: Vec<Vec<&str>> = finished
        .text()
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0].join(" "), "values found, % of 3 samples");
    assert_eq!(lines[1], ["bytes", "\\", "depth", "0", "%", "50", "%", "100", "%"]);
    assert_eq!((lines[2][0], lines[3][0], lines[2].len()), ("24", "32", 4));
    assert_eq!(lines[5].join(" "), "bytes of the values right, %");
    assert_eq!(lines[10].join(" "), "loss of the values, bits per byte");
    assert!(lines[12][1].parse::<f64>().unwrap() > 0.5, "{lines:?}");
    let last = lines.last().unwrap().join(" ");
    assert!(last.contains("of 18 values found"), "{last}");
    assert!(finished.stderr.starts_with("try: mblm needle -m ") && finished.stderr.lines().count() == 1);
}

#[test]
fn cells_of_json_recombine_and_do_not_depend_on_the_batch() {
    let of = |args: &[&str]| {
        let depths = ["--lengths", "32", "--depths", "0,100", "--samples", "7", "--json"];
        done(&needle(&[&depths, args].concat())).json()
    };
    let json = of(&["--seed", "4"]);
    let cells = json["cells"].as_array().unwrap();
    let depths: Vec<f64> = cells.iter().map(|cell| number(&cell["depth_percent"])).collect();
    assert_eq!(depths, [0.0, 100.0]);
    assert_eq!(json["samples"], 14);
    let hits: f64 = cells.iter().map(|cell| number(&cell["hits"])).sum();
    assert_eq!(hits, number(&json["hits"]));
    let bits: f64 = cells.iter().map(|cell| number(&cell["bits_per_byte"])).sum();
    assert!((bits / 2.0 - number(&json["bits_per_byte"])).abs() < 1e-9);
    assert_eq!(
        (&json["split"], &json["seed"], &json["options"]["key_len"]),
        (&Value::Null, &4.into(), &2.into())
    );
    let alone = of(&["--seed", "4", "--batch-size", "1"]);
    assert!((number(&alone["bits_per_byte"]) - number(&json["bits_per_byte"])).abs() < 1e-6);
    let other = of(&["--seed", "5"]);
    assert!((number(&other["bits_per_byte"]) - number(&json["bits_per_byte"])).abs() > 1e-6);
}

#[test]
fn the_picture_is_drawn_and_never_drawn_over() {
    let scratch = Scratch::new();
    for name in ["found.svg", "found.png"] {
        let path = scratch.path(name);
        let args = needle(&[
            "--lengths",
            "24,32",
            "--depths",
            "0,100",
            "--samples",
            "2",
            "--plot",
            str(&path),
        ]);
        assert!(done(&args).text().contains("as a heat map"));
        let picture = std::fs::read(&path).unwrap();
        if name.ends_with("svg") {
            let text = String::from_utf8(picture).unwrap();
            for part in [
                "<svg",
                "values found, % of 2 samples",
                "length of the context (bytes)",
                ">\n32\n<",
                ">\n100 %\n<",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
        } else {
            assert_eq!(&picture[1..4], b"PNG");
        }
        fails(&args, 2, &["--plot", "is there already", "--force"]);
    }
    fails(
        &needle(&["--plot", "found.gif"]),
        2,
        &["--plot", "ends in .svg or .png"],
    );
}

/// Trains two batches on needles. Returns the scratch folder and the run's folder.
fn run_on_needles() -> (Scratch, PathBuf) {
    let options = "{ held_out: 0.2, needle_format: '<{key}:{value}>', query_format: '<{key}?{value}>', key_len: 2, \
                   value_len: 1, needles: 2, queries: 2, text_weight: 0.5 }";
    let config = CONFIG
        .replace("dataset_id: bytes", "dataset_id: needle")
        .replace("{ held_out: 0.1 }", options)
        .replace("target_elements: 3840", "target_elements: 256");
    let scratch = Scratch::with_config(&config);
    let trained = done(&["train", str(scratch.config())]);
    assert!(trained.text().contains("weighted bits per byte"), "{}", trained.text());
    assert!(trained.stderr.contains("smoothed weighted loss"), "{}", trained.stderr);
    let run = scratch.run_folders().pop().unwrap();
    (scratch, run)
}

#[test]
fn a_runs_options_and_text_are_used() {
    let (scratch, run) = run_on_needles();
    let quick = ["--lengths", "32", "--depths", "50", "--samples", "2", "--json"];
    let of_run = done(&[&["needle", "-m", str(&run)], &quick[..]].concat()).json();
    assert_eq!(of_run["split"], "validation");
    assert_eq!(of_run["data"], str(scratch.data()));
    assert_eq!(
        (&of_run["options"]["needles"], &of_run["options"]["queries"]),
        (&2.into(), &2.into())
    );
    let model = &trained().model;
    let given = [
        "needle",
        "-m",
        str(model),
        "--config",
        str(scratch.config()),
        "--split",
        "test",
    ];
    let changed = ["--option", "queries=1"];
    let given = done(&[&given[..], &quick, &changed].concat()).json();
    assert_eq!(
        (&given["options"]["needles"], &given["options"]["queries"]),
        (&2.into(), &1.into())
    );
    assert_eq!(given["split"], "test");
    // the same data set under `mblm eval`: only its values count
    let config = run.join("config.yaml");
    let eval = done(&[
        "eval",
        "-m",
        str(&run),
        "--config",
        str(&config),
        "--split",
        "validation",
        "--json",
    ])
    .json();
    assert!(number(&eval["bits_per_byte"]) > 1.0, "{eval}");
    let all = ["--lengths", "32", "--data", str(scratch.data())];
    assert!(
        done(&[&["needle", "-m", str(&run), "--samples", "1"], &all[..]].concat())
            .text()
            .contains("of 5 values")
    );
}

#[test]
fn lengths_default_to_the_context_and_are_limited_by_the_model() {
    let finished = done(&needle(&["--samples", "1", "--depths", "0", "--json"])).json();
    let lengths: Vec<&Value> = finished["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| &cell["length_bytes"])
        .collect();
    assert_eq!(lengths, [32]);
    fails(
        &needle(&["--lengths", "32,1KiB"]),
        2,
        &["--lengths", "1024 bytes", "fixed positions for 32 bytes"],
    );
    fails(&needle(&["--lengths", "12"]), 2, &["a length of 12 bytes", "too short"]);
}

#[test]
fn what_cannot_be_answered_is_warned_of() {
    let warned = |format: &str| {
        let option = format!("query_format={format}");
        let finished = finish(&mut mblm(needle(&[
            "--lengths",
            "32",
            "--samples",
            "1",
            "--option",
            &option,
        ])));
        assert_eq!(finished.code, 0, "{finished:?}");
        finished.stderr.contains("same patch of 4 bytes") && finished.stderr.contains("align=4")
    };
    // the last patch begins at byte 28; the first format's key ends with byte 28, the second's with
    // byte 26
    assert!(warned("<{key}?{value}>"));
    assert!(!warned("<{key}?  {value}>"));
}

#[test]
fn mistakes_are_wrong_usage() {
    let model = str(&trained().model);
    fails(&["needle", "-m", model], 2, &["text to hide needles in", "--data"]);
    fails(&needle(&["--option", "needles"]), 2, &["--option needles", "KEY=VALUE"]);
    fails(
        &needle(&["--option", "pins=3"]),
        2,
        &["unknown field `pins`", "`needles`"],
    );
    fails(&needle(&["--option", "needles=0"]), 2, &["needles is 0"]);
    fails(
        &needle(&["--split", "test", "--option", "held_out=0"]),
        2,
        &["--split test", "no split of that name"],
    );
    for (arg, value) in [
        ("--depths", "101"),
        ("--samples", "0"),
        ("--batch-size", "0"),
        ("--lengths", "many"),
    ] {
        assert_eq!(finish(&mut mblm(needle(&[arg, value]))).code, 2, "{arg} {value}");
    }
    let missing = ["needle", "-m", model, "--data", "/nowhere/text"];
    fails(&missing, 1, &["/nowhere/text", "no such file"]);
    fails(&["needle", "-m", "/nowhere/model"], 1, &["/nowhere/model: "]);
}
