//! Tests `mblm plot`: figures of runs, and the errors for files that are not runs.

use std::path::PathBuf;

use crate::support::{Scratch, done, fails, finish, mblm, str};

const HEADER: &str = "gpu_rank,timestamp,elements_seen,kind,epoch,batch,cum_batch,loss,lr,avg_grad,avg_grad_clipped";

/// The lines of a run of 100 batches, with a validation every 20 batches and a test.
fn losses(rank: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in 0..100u64 {
        let loss = 1.0 + 4.5 / (batch + 1) as f64;
        let (minute, second, seen) = (batch / 60, batch % 60, (batch + 1) * 128);
        let time = format!("2026-11-25 07:{minute:02}:{second:02}.5");
        lines.push(format!(
            "{rank},{time},{seen},train,0,{batch},{batch},{loss},1e-3,-1e-9,-1e-9"
        ));
        if batch % 20 == 19 {
            lines.push(format!("{rank},{time},{seen},valid,0,{batch},{batch},{loss},-1,-1,-1"));
        }
    }
    lines.push(format!("{rank},2026-11-25 07:02:00.5,-1,test,-1,-1,-1,1.25,-1,-1,-1"));
    lines
}

fn text(lines: &[String]) -> String {
    format!("{HEADER}\n{}\n", lines.join("\n"))
}

/// Makes a run folder with these losses.
fn run(scratch: &Scratch, name: &str, losses: impl AsRef<[u8]>) -> PathBuf {
    let folder = scratch.path(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("loss.csv"), losses).unwrap();
    folder
}

/// Returns width and height from a PNG's header.
fn png_size(bytes: &[u8]) -> (u32, u32) {
    assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn a_run_becomes_a_picture_in_its_folder() {
    let scratch = Scratch::new();
    let folder = run(&scratch, "tiny <1> & co", text(&losses(0)));
    let finished = done(&["plot", str(&folder)]);
    let picture = folder.join("plot.svg");
    assert_eq!(finished.text(), format!("{}: 106 losses of 1 run\n", picture.display()));
    assert_eq!(finished.stderr, "try: mblm runs\n");
    let svg = std::fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for label in [
        "tiny &lt;1&gt; &amp; co",
        "loss (bits per byte)",
        "learning rate",
        "batch",
        "training, smoothed",
        "held-out data, lowest 1.508",
        "test data 1.803",
    ] {
        assert!(svg.contains(&format!("\n{label}\n")), "{label}: {svg}");
    }
    assert_eq!(
        svg.matches("<circle").count(),
        2 * 5 + 1 + 2,
        "held-out data and the legend"
    );
}

#[test]
fn options_change_axes_unit_and_format() {
    let scratch = Scratch::new();
    let folder = run(&scratch, "run", text(&losses(0)));
    let file = folder.join("loss.csv");
    let svg = scratch.path("a.SVG");
    let json = done(&[
        "plot",
        str(&file),
        "-o",
        str(&svg),
        "--unit",
        "nats",
        "--x",
        "time",
        "--log",
        "--json",
    ])
    .json();
    assert_eq!(json["output"], str(&svg));
    assert_eq!(json["points"], 106);
    assert_eq!(json["unit"], "nats");
    let described = &json["runs"][0];
    assert_eq!(described["name"], "run");
    assert_eq!(described["file"], str(&file));
    assert_eq!(
        (&described["training_points"], &described["validation_points"]),
        (&100.into(), &5.into())
    );
    assert_eq!(described["last_training_loss"], 1.045);
    assert_eq!(described["test_loss"], 1.25);
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(
        drawn.contains("loss (nats per byte)") && drawn.contains("time (seconds)"),
        "{drawn}"
    );

    let png = scratch.path("a.png");
    done(&["plot", str(&folder), "-o", str(&png), "--x", "elements"]);
    let bytes = std::fs::read(&png).unwrap();
    assert_eq!(png_size(&bytes), (2000, 1440));
    assert!(!folder.join("plot.svg").exists());
}

#[test]
fn losses_of_the_classifier_are_called_those_of_answers() {
    let scratch = Scratch::new();
    let (bytes, answers) = (
        run(&scratch, "bytes", text(&losses(0))),
        run(&scratch, "answers", text(&losses(0))),
    );
    std::fs::write(answers.join("config.yaml"), "cnn_lstm: {}\n").unwrap();
    let picture = scratch.path("a.svg");
    for (runs, label) in [
        (vec![&answers], "loss (bits per answer)"),
        (vec![&answers, &bytes], "loss (bits per byte or answer)"),
        (vec![&bytes], "loss (bits per byte)"),
    ] {
        let mut args = vec!["plot", "--force", "-o", str(&picture)];
        args.extend(runs.into_iter().map(|run| str(run)));
        done(&args);
        let unforced: Vec<&str> = args.iter().copied().filter(|word| *word != "--force").collect();
        fails(&unforced, 2, &["is there already", "--force"]);
        let drawn = std::fs::read_to_string(&picture).unwrap();
        assert!(drawn.contains(&format!("\n{label}\n")), "{label}");
    }
}

#[test]
fn several_runs_are_compared_in_one_picture() {
    let scratch = Scratch::new();
    let all = losses(0);
    let (first, second) = (
        run(&scratch, "first", text(&all)),
        run(&scratch, "second", text(&all[..50])),
    );
    let mut command = mblm(["plot", str(&first), str(&second)]);
    command.current_dir(scratch.runs().parent().unwrap());
    let finished = finish(&mut command);
    assert_eq!(
        (finished.code, finished.text()),
        (0, "plot.svg: 156 losses of 2 runs\n"),
        "{}",
        finished.stderr
    );
    let svg = std::fs::read_to_string(scratch.path("plot.svg")).unwrap();
    assert!(svg.contains("\nfirst\n") && svg.contains("\nsecond\n"), "{svg}");
    // two files in folders of the same name get different names
    let deeper = scratch.path("other");
    std::fs::create_dir(&deeper).unwrap();
    std::fs::rename(&second, deeper.join("first")).unwrap();
    let other = deeper.join("first");
    let json = done(&[
        "plot",
        str(&first),
        str(&other),
        "-o",
        str(&scratch.path("b.svg")),
        "--json",
    ])
    .json();
    assert_eq!(
        (&json["runs"][0]["name"], &json["runs"][1]["name"]),
        (&str(&first).into(), &str(&other).into())
    );
}

#[test]
fn files_of_the_package_and_runs_that_go_on_are_drawn() {
    let scratch = Scratch::new();
    // several workers, line ends as Python writes them, the last line cut
    let both: Vec<String> = losses(0).into_iter().zip(losses(1)).flat_map(|(a, b)| [a, b]).collect();
    let text = text(&both).replace('\n', "\r\n");
    let folder = run(&scratch, "package", &text[..text.len() - 9]);
    let finished = done(&["plot", str(&folder)]);
    assert!(
        finished.text().contains(": 106 losses of 1 run\n"),
        "{}",
        finished.text()
    );
    assert!(
        finished.stderr.contains("the last line is incomplete and is ignored"),
        "{}",
        finished.stderr
    );
    assert!(
        finished
            .stderr
            .contains("several workers wrote here; worker 0 is drawn"),
        "{}",
        finished.stderr
    );
    assert_eq!(done(&["plot", "-q", str(&folder)]).stderr, "");
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let scratch = Scratch::new();
    let all = losses(0);
    let missing = scratch.path("missing");
    fails(
        &["plot", str(&missing)],
        1,
        &["missing", "expected the losses of a run, found no file"],
    );
    fails(
        &["plot", str(scratch.runs().parent().unwrap())],
        1,
        &["loss.csv", "found no file"],
    );
    for (name, content) in [
        ("none", String::new()),
        ("empty", format!("{HEADER}\n")),
        ("one", text(&all[..1])),
    ] {
        let folder = run(&scratch, name, content);
        fails(
            &["plot", str(&folder)],
            1,
            &["loss.csv", "expected at least two losses, found"],
        );
        assert!(!folder.join("plot.svg").exists());
    }
    let lost = |line: &String| {
        let mut columns: Vec<&str> = line.split(',').collect();
        columns[7] = "nan";
        columns.join(",")
    };
    let not_finite = run(&scratch, "nan", text(&all[..9].iter().map(lost).collect::<Vec<_>>()));
    fails(
        &["plot", str(&not_finite)],
        1,
        &["expected at least two losses, found 0"],
    );

    let mut damaged = all.clone();
    damaged[6] = "0,2026-11-25 07:31:02,\u{0}\u{0}".into();
    let folder = run(&scratch, "damaged", text(&damaged));
    fails(
        &["plot", str(&folder)],
        1,
        &["loss.csv: line 8: expected 11 columns, found 3"],
    );
    fails(
        &["plot", str(scratch.data())],
        1,
        &["data.txt: line 1: expected the columns"],
    );

    let good = run(&scratch, "good", text(&all));
    for output in ["picture.jpg", "picture"] {
        let output = scratch.path(output);
        fails(&["plot", str(&good), "-o", str(&output)], 2, &["ends in .svg or .png"]);
    }
    fails(
        &["plot", str(&good), "-o", str(&missing.join("a.svg"))],
        1,
        &["missing", "cannot write the file"],
    );
}
