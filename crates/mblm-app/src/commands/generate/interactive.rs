//! `mblm generate --interactive`: answers line after line. Everything stays in the context and is
//! read only once.
//!
//! A line is read without its line end, unless `/newline on`. An empty line continues the answer.
//! On a terminal, lines can be edited; elsewhere they are bytes. Lines that begin with `/` are
//! commands; `//` stands for a text line that begins with `/`. Answer k draws from stream k of the
//! seed, so the same lines with the same seed give the same answers.

use std::io::{self, BufRead, IsTerminal, StdinLock, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mblm::bytes::ids_from_bytes;
use mblm::generate::sample::MAX_REPETITION_WINDOW;
use mblm::generate::{Completion, Cursor, Generator, Start, Window};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::args::GenerateArgs;
use super::rules::GenerateRules;
use crate::command::Context;
use crate::output::{grouped, note};
use crate::signals::Signals;

/// The default length of an answer, in bytes.
const ANSWER: usize = 200;

const HELP: &str = "\
an empty line   generate without reading anything
/reset          forget everything that was read and written
/seed N         set the seed; the next answer counts as the first one
/temperature T  set the temperature, from 0 (always the likeliest byte)
/bytes N        set the largest length of an answer
/newline on|off also read the end of each line
/save FILE      save the state, for --load-state FILE
/quit           end (so do Ctrl-D and Ctrl-C; during an answer Ctrl-C ends the answer)
//...           read a line that begins with /";

/// Runs the conversation until the input ends.
pub(crate) fn run(
    args: &GenerateArgs,
    context: &Context,
    generator: &Generator,
    cursor: Cursor,
    mut rules: GenerateRules,
    prompt: &[u8],
) -> Result<ExitCode> {
    let signals = Signals::listen_in_conversation()?;
    rules.params.interrupt = Some(signals.stop.clone());
    let seed = rules.params.seed;
    let mut conversation = Conversation {
        generator,
        signals: &signals,
        cursor,
        before: Vec::new(),
        rules,
        answers: 0,
        max_bytes: args.max_bytes.unwrap_or(ANSWER),
        newline: false,
        quiet: context.quiet(),
    };
    let mut input = Input::open()?;
    if !context.quiet() {
        note(&format!("seed {seed}; /help shows the commands"));
    }
    conversation.read(prompt)?;
    loop {
        signals.take_interrupt(); // a Ctrl-C that came just after an answer
        signals.idle(true);
        let line = input.line();
        signals.idle(false);
        let Some(line) = line? else { break };
        if !conversation.take(&line)? || signals.stopped() {
            break;
        }
    }
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// The source of lines.
enum Input {
    Terminal(Box<DefaultEditor>),
    Plain(StdinLock<'static>),
}

impl Input {
    fn open() -> Result<Self> {
        Ok(match io::stdin().is_terminal() && io::stdout().is_terminal() {
            true => Self::Terminal(Box::new(DefaultEditor::new().context("cannot read from the terminal")?)),
            false => Self::Plain(io::stdin().lock()),
        })
    }

    /// Reads the next line without its line end; `None` at the end of the input, and for Ctrl-C on
    /// a terminal.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(&line); // only a convenience: ignore errors
                    Ok(Some(line.into_bytes()))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    note(
                        "the terminal sent bytes that are not UTF-8: from now on lines are read as bytes, without editing; type the line again",
                    );
                    *self = Self::Plain(io::stdin().lock());
                    self.line()
                }
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Self::Plain(stdin) => {
                let mut line = Vec::new();
                if stdin.read_until(b'\n', &mut line).context("cannot read from stdin")? == 0 {
                    return Ok(None);
                }
                if line.ends_with(b"\n") {
                    line.pop();
                }
                Ok(Some(line))
            }
        }
    }
}

/// A conversation: its context, and the rules for answers.
struct Conversation<'a> {
    generator: &'a Generator,
    signals: &'a Signals,
    cursor: Cursor,
    /// The last ids before the cursor, as many as a repetition penalty can look back.
    before: Vec<u32>,
    rules: GenerateRules,
    answers: u64,
    max_bytes: usize,
    newline: bool,
    quiet: bool,
}

impl Conversation<'_> {
    /// Handles a line. Returns whether to continue.
    fn take(&mut self, line: &[u8]) -> Result<bool> {
        let text = match line {
            [b'/', rest @ ..] if !rest.starts_with(b"/") => return self.command(&String::from_utf8_lossy(rest)),
            [b'/', rest @ ..] => rest,
            line => line,
        };
        let mut text = text.to_vec();
        if self.newline && !text.is_empty() {
            text.push(b'\n');
        }
        if self.read(&text)? {
            self.answer()?;
        }
        Ok(true)
    }

    /// Runs a command. Returns whether to continue.
    fn command(&mut self, line: &str) -> Result<bool> {
        let (name, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let value = value.trim();
        let done = match (name, value) {
            ("quit", "") => return Ok(false),
            ("help", "") => Ok(HELP.to_string()),
            ("reset", "") => {
                self.cursor = Cursor::begin(self.generator)?;
                self.before.clear();
                Ok("nothing has been read".to_string())
            }
            ("seed", _) => parse(value, "a whole number").map(|seed| {
                (self.rules.params.seed, self.answers) = (seed, 0);
                format!("seed {seed}")
            }),
            ("temperature", _) => parse(value, "a number such as 0.8").and_then(|temperature| {
                let mut sampling = self.rules.params.sampling.clone();
                sampling.temperature = temperature;
                sampling.validate().map_err(|error| error.to_string())?;
                self.rules.params.sampling = sampling;
                Ok(format!("temperature {temperature}"))
            }),
            ("bytes", _) => parse(value, "a whole number").map(|bytes| {
                self.max_bytes = bytes;
                format!("answers of up to {} bytes", grouped(bytes as u64))
            }),
            ("newline", "on" | "off") => {
                self.newline = value == "on";
                Ok(format!(
                    "the end of a line is {}",
                    if self.newline { "read" } else { "not read" }
                ))
            }
            ("newline", _) => Err("expected on or off".to_string()),
            ("save", "") => Err("expected the name of a file".to_string()),
            ("save", path) => self.save(Path::new(path)),
            _ => Err("no such command; /help lists the commands".to_string()),
        };
        match done {
            Ok(said) if !self.quiet || name == "help" => note(&said),
            Ok(_) => {}
            Err(problem) => note(&format!("/{}: {problem}", line.trim())),
        }
        Ok(true)
    }

    fn save(&self, path: &Path) -> Result<String, String> {
        if path.exists() {
            return Err(format!("{} is there already; give another name", path.display()));
        }
        let saved = self.cursor.save(self.generator, path);
        saved.map_err(|error| error.to_string())?;
        Ok(format!("saved to {}", path.display()))
    }

    /// The number of unused positions, if the model's positions are limited.
    fn left(&self) -> Option<usize> {
        let longest = self.generator.model().config().longest_input()?;
        Some(longest.saturating_sub(self.cursor.position()))
    }

    /// Whether the context is a sliding window.
    fn slides(&self) -> bool {
        self.rules.params.window == Window::Slide
    }

    /// Reads bytes without answering. Returns whether they were read.
    fn read(&mut self, bytes: &[u8]) -> Result<bool> {
        if self.rules.params.window != Window::Whole {
            return self.read_through_window(bytes);
        }
        if let Some(left) = self.left().filter(|left| *left < bytes.len()) {
            note(&format!(
                "not read: the line has {} bytes, and the model has positions for {left} more; /reset begins anew",
                bytes.len()
            ));
            return Ok(false);
        }
        let ids = ids_from_bytes(bytes);
        if let Err(error) = self.cursor.read(self.generator, &ids) {
            note(&format!("not read: {error:#}"));
            return Ok(false);
        }
        self.remember(&ids);
        Ok(true)
    }

    /// Reads bytes through the window: only the last bytes of a long line (crop), or all with the
    /// earlier half of the context forgotten whenever it is full (slide).
    fn read_through_window(&mut self, bytes: &[u8]) -> Result<bool> {
        let mut params = self.rules.params.clone();
        params.max_bytes = 0;
        let cursor = std::mem::replace(&mut self.cursor, Cursor::begin(self.generator)?);
        let ids = ids_from_bytes(bytes);
        let start = Start {
            cursor: Some(cursor.clone()),
            known: self.before.clone(),
            prompt: ids.clone(),
        };
        let read = Completion::new(self.generator, start, &params, &self.rules.stop).and_then(Completion::into_cursor);
        match read {
            Ok(cursor) => self.cursor = cursor,
            Err(error) => {
                self.cursor = cursor;
                note(&format!("not read: {error:#}"));
                return Ok(false);
            }
        }
        self.remember(&ids);
        Ok(true)
    }

    /// Generates an answer and prints it.
    fn answer(&mut self) -> Result<()> {
        let left = self.left().filter(|_| !self.slides());
        let mut params = self.rules.params.clone();
        params.max_bytes = left.map_or(self.max_bytes, |left| left.min(self.max_bytes));
        params.first_sample = self.answers;
        // moved: a second holder of the state would make the first step copy it
        let cursor = std::mem::replace(&mut self.cursor, Cursor::begin(self.generator)?);
        let start = Start {
            cursor: Some(cursor),
            known: self.before.clone(),
            prompt: Vec::new(),
        };
        let mut answer = Completion::new(self.generator, start, &params, &self.rules.stop)?;
        let mut out = io::stdout().lock();
        let mut written = Vec::new();
        for piece in answer.by_ref() {
            let piece = piece?;
            out.write_all(&piece.bytes)?;
            out.flush()?;
            written.extend(piece.ids);
        }
        self.cursor = answer.into_cursor()?;
        writeln!(out)?;
        out.flush()?;
        drop(out);
        self.remember(&written);
        self.answers += 1;
        self.signals.take_interrupt();
        if self.left() == Some(0) && !self.slides() {
            note(&format!(
                "the model's {} positions are used up; /reset begins anew",
                grouped(self.cursor.position() as u64)
            ));
        }
        Ok(())
    }

    fn remember(&mut self, ids: &[u32]) {
        self.before.extend_from_slice(ids);
        let kept = match self.slides() {
            true => self.generator.model().config().context().max(MAX_REPETITION_WINDOW),
            false => MAX_REPETITION_WINDOW,
        };
        self.before.drain(..self.before.len().saturating_sub(kept));
    }
}

fn parse<T: std::str::FromStr>(value: &str, expected: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("expected {expected}"))
}
