//! `mblm generate --interactive` through pipes: lines, answers and commands.

use crate::convert::fixture_folder;
use crate::support::{Finished, Scratch, done, finish, mblm, str, trained};

/// Holds a conversation of these lines with the trained model, which has 32 positions.
fn talk(args: &[&str], lines: &str) -> Finished {
    let args = [&["generate", "-m", str(&trained().model), "--interactive"], args].concat();
    let finished = finish(mblm(args).write_stdin(lines));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    finished
}

/// Generates the sample of this number after these bytes, outside of a conversation.
fn alone(model: &std::path::Path, before: &[u8], number: &str, args: &[&str]) -> Vec<u8> {
    let scratch = Scratch::new();
    let before = scratch.file("before", before);
    let fixed = [
        "generate",
        "-m",
        str(model),
        "--raw",
        "--first-sample",
        number,
        "--prompt-file",
        str(&before),
    ];
    done(&[&fixed[..], args].concat()).stdout
}

#[test]
fn answers_are_the_samples_after_all_that_was_said() {
    let scratch = Scratch::new();
    let model = fixture_folder(&scratch);
    let options = ["--seed", "7", "-n", "60", "--only", "printable"];
    let args = [
        &["generate", "-m", str(&model), "--interactive", "--prompt", "Once: "],
        &options[..],
    ]
    .concat();
    let finished = finish(mblm(args).write_stdin("It was\n\n//a\n"));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let (mut before, mut expected) = (b"Once: ".to_vec(), Vec::new());
    for (number, line) in [("1", "It was"), ("2", ""), ("3", "/a")] {
        before.extend_from_slice(line.as_bytes());
        let answer = alone(&model, &before, number, &options);
        assert_eq!(answer.len(), 60);
        before.extend_from_slice(&answer);
        expected.extend_from_slice(&answer);
        expected.push(b'\n');
    }
    assert_eq!(finished.text(), String::from_utf8(expected).unwrap());
    assert!(finished.stderr.starts_with("seed 7; /help"), "{}", finished.stderr);
}

#[test]
fn a_stop_text_ends_an_answer_and_is_not_read() {
    let scratch = Scratch::new();
    let model = fixture_folder(&scratch);
    let options = ["--seed", "7", "-n", "400", "--only", "a-f", "--stop", "ab"];
    let args = [&["generate", "-m", str(&model), "--interactive"], &options[..]].concat();
    let finished = finish(mblm(args).write_stdin("x\ny\n"));
    let first = alone(&model, b"x", "1", &options);
    let second = alone(&model, &[b"x", &first[..], b"y"].concat(), "2", &options);
    assert!(first.len() < 400 && second.len() < 400);
    let expected = [&first[..], b"\n", &second[..], b"\n"].concat();
    assert_eq!(finished.stdout, expected);
}

#[test]
fn used_up_positions_are_said_and_reset_gives_them_back() {
    let finished = talk(&["-n", "29", "--temperature", "0"], "She\nw\n\n/reset\nShe\n");
    let answer = String::from_utf8(alone(&trained().model, b"She", "1", &["--temperature", "0"])).unwrap();
    // an empty line continues, but no position is left
    assert_eq!(finished.text(), format!("{answer}\n\n{answer}\n"));
    let said: Vec<&str> = finished.stderr.lines().skip(1).collect();
    assert_eq!(said[0], "the model's 32 positions are used up; /reset begins anew");
    assert!(
        said[1].starts_with("not read: the line has 1 bytes, and the model has positions for 0 more"),
        "{said:?}"
    );
    assert_eq!(said[3], "nothing has been read");
}

#[test]
fn commands_change_the_answers() {
    let model = &trained().model;
    let finished = talk(
        &["--seed", "1"],
        "/bytes 6\n/temperature 0\nShe\n/reset\n/temperature 1\n/seed 4\nShe\n/reset\n/seed 4\n/newline on\nShe\n/quit\nShe\n",
    );
    let of = |before: &[u8], args: &[&str]| {
        let bytes = alone(model, before, "1", &[&["-n", "6"], args].concat());
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let expected = [
        of(b"She", &["--temperature", "0"]),
        of(b"She", &["--seed", "4"]),
        of(b"She\n", &["--seed", "4"]),
    ];
    assert_eq!(finished.text(), expected.map(|answer| answer + "\n").concat());
}

#[test]
fn wrong_commands_are_said_and_change_nothing() {
    let lines = "/nothing\n/temperature cold\n/temperature -1\n/seed\n/bytes x\n/newline maybe\n/save\n/save /missing/state\n/help\n";
    let finished = talk(&[], lines);
    assert!(finished.stdout.is_empty());
    let said = &finished.stderr;
    for part in [
        "/nothing: no such command",
        "/temperature cold: expected a number",
        "/temperature -1: temperature is -1",
        "/seed: expected a whole number",
        "/bytes x: expected a whole number",
        "/newline maybe: expected on or off",
        "/save: expected the name of a file",
        "/save /missing/state: ",
        "/reset          forget everything",
    ] {
        assert!(said.contains(part), "expected {part:?} in: {said}");
    }
}

#[test]
fn a_conversation_is_saved_and_gone_on_with() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let options = ["--temperature", "0", "-n", "6"];
    let whole = talk(&options, "She\n\nw\n");
    let first = talk(&options, &format!("She\n\n/save {}\n", str(&state)));
    let second = talk(&[&options[..], &["--load-state", str(&state)]].concat(), "w\n");
    assert_eq!(whole.stdout, [first.stdout, second.stdout].concat());
}

#[cfg(unix)]
mod signals {
    use std::io::{Read, Write};
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use super::*;

    fn send(signal: &str, child: &Child) {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    fn start(model: &std::path::Path) -> Child {
        Command::new(assert_cmd::cargo::cargo_bin("mblm"))
            .args([
                "generate",
                "-m",
                str(model),
                "--interactive",
                "-n",
                "1000000000",
                "--only",
                "a-z",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts a conversation and returns it in the middle of its first answer, with its stdin and
    /// stdout.
    fn answering(scratch: &Scratch) -> (Child, ChildStdin, ChildStdout) {
        let mut child = start(&fixture_folder(scratch));
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdin.write_all(b"It was\n").unwrap();
        stdout.read_exact(&mut [0; 50]).unwrap();
        (child, stdin, stdout)
    }

    #[test]
    fn ctrl_c_ends_the_answer_and_at_the_prompt_the_program() {
        let scratch = Scratch::new();
        let (mut child, mut stdin, mut stdout) = answering(&scratch);
        send("-INT", &child);
        let mut byte = [0];
        while byte != *b"\n" {
            stdout.read_exact(&mut byte).unwrap();
        }
        stdin.write_all(b"/bytes 9\nand\n").unwrap();
        let mut answer = [0; 10];
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(answer[9], b'\n');
        // it soon waits for a line
        let status = loop {
            send("-INT", &child);
            std::thread::sleep(std::time::Duration::from_millis(20));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(0));
    }

    #[test]
    fn termination_ends_the_program_after_what_was_written() {
        let scratch = Scratch::new();
        let (mut child, _stdin, mut stdout) = answering(&scratch);
        send("-TERM", &child);
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.last(), Some(&b'\n'));
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}
