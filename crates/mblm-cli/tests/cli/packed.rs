//! Compressed files, archives and JSON Lines: they are read completely, or refused with their kind
//! and a remedy.

use std::io::Write;

use crate::real_data::text;
use crate::support::{Scratch, assert_error, done, finish, mblm, str};

/// Runs `data check` on a file with this content and these options.
fn checked(scratch: &Scratch, name: &str, content: &[u8], options: &str) -> crate::support::Finished {
    let data = format!("io.dataset_dir={}", str(&scratch.file(name, content)));
    let options = format!("io.dataset_args={options}");
    let config = str(scratch.config()).to_string();
    finish(&mut mblm(["data", "check", &config, "--set", &data, "--set", &options]))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn bad_json_lines_are_told_by_file_and_line() {
    let scratch = Scratch::new();
    let lines: String = (0..400)
        .map(|line| format!("{{\"id\": {line}, \"text\": \"line {line} of it\"}}\n"))
        .collect();
    let wide: Vec<u8> = lines.bytes().flat_map(|byte| [byte, 0]).collect();
    let pretty = "{\n  \"text\": \"some text\"\n}\n".repeat(100);
    for (content, parts) in [
        (wide, &["UTF-16LE", "iconv"][..]),
        (pretty.into_bytes(), &["line 1", "jq -c"]),
        (
            format!("\n\n# Notes\n{lines}").into_bytes(),
            &["line 3", "# Notes", "skip_bad_lines"],
        ),
        (format!("{lines}[1, 2]\n").into_bytes(), &["line 401", "sequence"]),
        (
            format!("{lines}{{\"text\" \"a\"}}\n").into_bytes(),
            &["line 401", "at byte 9"],
        ),
    ] {
        let refused = checked(&scratch, "a.jsonl", &content, "{text_field: text, held_out: 0.5}");
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert_error(&refused.stderr, &[&["a.jsonl"], parts].concat());
        assert!(!refused.stderr.contains("at line 1"), "{}", refused.stderr);
    }
    let skipping = "{text_field: text, skip_bad_lines: true, held_out: 0.5}";
    let bytes: usize = (0..400).map(|line| format!("line {line} of it\n").len()).sum();
    let notes = checked(&scratch, "a.jsonl", format!("# Notes\n{lines}").as_bytes(), skipping);
    assert_eq!(notes.code, 0, "{}", notes.stderr);
    assert!(notes.stderr.contains("1 lines skipped"), "{}", notes.stderr);
    assert!(
        notes.text().contains(&format!("{} bytes", bytes / 2)),
        "{}",
        notes.text()
    );
    let none = checked(&scratch, "a.jsonl", b"# Notes\n# More\n", skipping);
    assert_error(&none.stderr, &["a.jsonl", "no line has a text"]);
    // concatenated files with byte order marks
    let joined = format!("\u{feff}{lines}\u{feff}{lines}");
    let joined = checked(
        &scratch,
        "a.jsonl",
        joined.as_bytes(),
        "{text_field: text, held_out: 0.5}",
    );
    assert!(
        joined.text().contains(&format!("{bytes} bytes")),
        "{} {}",
        joined.text(),
        joined.stderr
    );
}

#[test]
fn packed_files_are_read_whole_or_refused() {
    let scratch = Scratch::new();
    // the first gzip member ends one byte before a buffer does: no part of the second may be lost
    let noise: Vec<u8> = (0..140_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let stored = |length: usize| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(&noise[..length]).unwrap();
        encoder.finish().unwrap()
    };
    let length = (130_900..131_071)
        .find(|length| stored(*length).len() == 131_071)
        .unwrap();
    let both = [stored(length), gzip(text(500).as_bytes())].concat();
    let whole = checked(&scratch, "a.gz", &both, "{held_out: 0}");
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let bytes = format!("{} bytes", length + text(500).len());
    assert!(whole.text().contains(&bytes), "{} {bytes}", whole.text());
    let twice = checked(&scratch, "a.gz", &gzip(&gzip(text(500).as_bytes())), "{held_out: 0.1}");
    assert_error(&twice.stderr, &["a.gz", "gzip data again", "gzip -dc"]);
    let plain = checked(&scratch, "a.gz", text(1500).as_bytes(), "{held_out: 0.1}");
    assert_error(&plain.stderr, &["a.gz", "as the file's name says", "raw: true"]);
    let plain = checked(&scratch, "a.gz", text(1500).as_bytes(), "{held_out: 0.1, raw: true}");
    assert_eq!(plain.code, 0, "{}", plain.stderr);
}

#[test]
fn every_command_says_what_it_does_with_packed_files() {
    let scratch = Scratch::new();
    // `score` reads at most 32 bytes, the model's number of positions
    let packed = scratch.file("a.txt.gz", gzip(b"text"));
    let model = str(&crate::support::trained().model).to_string();
    for command in ["eval", "score"] {
        let found = finish(&mut mblm([command, "-m", &model, str(&packed)]));
        assert_eq!(found.code, 0, "{}", found.stderr);
        assert!(
            found.stderr.contains("gzip data") && found.stderr.contains("gzip -dc FILE"),
            "{command}: {}",
            found.stderr
        );
    }
    for split in ["train", "validation"] {
        let folder = scratch.path("books").join(split);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.txt.gz"), gzip(text(300).as_bytes())).unwrap();
    }
    let books = format!("io.dataset_dir={}", str(&scratch.path("books")));
    let config = str(scratch.config()).to_string();
    let pg19 = ["data", "check", &config, "--set", &books, "--set", "io.dataset_id=pg19"];
    let found = done(&[&pg19[..], &["--set", "io.dataset_args={}"]].concat());
    assert!(
        found.text().contains(&format!("{} bytes", text(300).len())),
        "{}",
        found.text()
    );
}

#[test]
fn hidden_needles_take_the_options_of_text() {
    let scratch = Scratch::new();
    let lines: String = (0..400)
        .map(|line| format!("{{\"text\": \"line {line} of it\"}}\nnothing\n"))
        .collect();
    let check = |content: &[u8], options: &str| {
        let data = format!("io.dataset_dir={}", str(&scratch.file("a", content)));
        let options = format!("io.dataset_args={options}");
        let config = str(scratch.config()).to_string();
        let set = |value| ["--set", value];
        let args = [["data", "check"], [&config, "--set"]].concat();
        finish(&mut mblm(
            [
                &args[..],
                &[&data],
                &set(&options),
                &set("io.dataset_id=needle"),
                &set("io.dataset_args.needle_format='{key}:{value};'"),
                &set("io.dataset_args.query_format='{key}={value};'"),
            ]
            .concat(),
        ))
    };
    let skipped = check(
        lines.as_bytes(),
        "{text_field: text, skip_bad_lines: true, held_out: 0.2}",
    );
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert!(skipped.stderr.contains("400 lines skipped"), "{}", skipped.stderr);
    let mut archive = b"PK\x03\x04".to_vec();
    archive.extend(text(500).bytes());
    assert_error(&check(&archive, "{held_out: 0.2}").stderr, &["zip", "raw: true"]);
    assert_eq!(check(&archive, "{held_out: 0.2, raw: true}").code, 0);
    let both = check(lines.as_bytes(), "{text_field: text, raw: true}");
    assert_error(&both.stderr, &["text_field", "raw"]);
}
