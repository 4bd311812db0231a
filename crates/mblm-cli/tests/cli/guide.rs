//! Runs the commands of the guide as a reader types them: every line of a block that begins with
//! "```sh,run", chapter by chapter.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chapters of the guide.
fn chapters() -> Vec<PathBuf> {
    let folder = root().join("docs/guide/src");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut chapters: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    chapters.sort();
    chapters
}

/// Returns the runnable lines of a chapter's blocks.
fn lines(text: &str) -> Vec<&str> {
    let (mut found, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        match line.trim() {
            "```sh,run" => inside = true,
            fence if fence.starts_with("```") => inside = false,
            command if inside && !command.is_empty() && !command.starts_with('#') => found.push(command),
            _ => {}
        }
    }
    found
}

/// Makes a folder with a reader's files: a book, the configurations and the bundled text.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("data/austen/emma.txt")).unwrap();
    let end = (60_000..text.len())
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(text.len());
    std::fs::write(folder.path().join("book.txt"), &text[..end]).unwrap();
    #[cfg(unix)]
    for name in ["configs", "data"] {
        std::os::unix::fs::symlink(root().canonicalize().unwrap().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[cfg(unix)]
#[test]
fn every_command_of_the_guide_runs() {
    let program = assert_cmd::cargo::cargo_bin("mblm");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut count = 0;
    for chapter in chapters() {
        let text = std::fs::read_to_string(&chapter).unwrap();
        let folder = folder();
        for line in lines(&text) {
            let output = Command::new("sh")
                .args(["-c", line])
                .current_dir(folder.path())
                .env("PATH", &path)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {line}\n{said}", chapter.display());
            count += 1;
        }
    }
    assert!(count >= 20, "{count} commands");
}

#[test]
fn every_chapter_is_in_the_summary() {
    let summary = std::fs::read_to_string(root().join("docs/guide/src/SUMMARY.md")).unwrap();
    for chapter in chapters() {
        let name = chapter.file_name().unwrap().to_str().unwrap();
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is not in the summary"
        );
    }
}
