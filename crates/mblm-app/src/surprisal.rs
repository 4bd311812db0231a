//! Writes bytes with their surprisal while they are scored: JSON Lines, or text with a color for
//! each character.
//!
//! A line is `{"offset":0,"byte":73,"bits":1.234,"position":17,"file":"book.txt"}`: offset in the
//! file (or in the samples of a split), value, −log₂ p, bytes of context. A special id of a data
//! set is written as its number. A weight other than 1 adds a key `weight`. Bytes that do not count
//! have no line.
//!
//! In colored text, the bits of a character are the sum over its bytes. Bytes that are not
//! printable text are written as `\x..`, and a newline with a color is preceded by ↵. The colors
//! are the 256 terminal colors.

use std::io::{self, Write};

use mblm::bytes::Utf8State;
use mblm::eval::ByteScore;
use serde_json::Value;

/// Background colors, each with the smallest number of bits that it marks.
const LEVELS: [(f64, u8); 6] = [(1.0, 22), (2.0, 28), (4.0, 100), (6.0, 130), (9.0, 124), (13.0, 196)];

/// The foreground color on all of them.
const FOREGROUND: u8 = 231;

/// Writes bytes with their surprisal to `out`.
pub(crate) enum Surprisal<W: Write> {
    /// One JSON object per line.
    Lines {
        out: W,
        /// The end of every line: the file or split of the bytes.
        source: String,
    },
    /// Colored text.
    Text(Text<W>),
}

impl<W: Write> Surprisal<W> {
    /// Writes JSON Lines.
    pub(crate) fn lines(out: W) -> Self {
        let source = String::new();
        Self::Lines { out, source }
    }

    /// Writes colored text.
    pub(crate) fn text(out: W) -> Self {
        Self::Text(Text {
            out,
            state: Utf8State::Boundary,
            begun: Vec::new(),
            level: None,
            line_begins: true,
        })
    }

    /// Starts a file or split; `kind` is its key in JSON. Colored text shows its name if there are
    /// several.
    pub(crate) fn begin(&mut self, kind: &str, name: &str, one_of_several: bool) -> io::Result<()> {
        match self {
            Self::Lines { source, .. } => *source = format!(",\"{kind}\":{}}}", Value::from(name)),
            Self::Text(text) if one_of_several => writeln!(text.out, "==> {name} <==")?,
            Self::Text(_) => {}
        }
        Ok(())
    }

    /// Writes bytes and flushes them.
    pub(crate) fn write(&mut self, bytes: &[ByteScore]) -> io::Result<()> {
        match self {
            Self::Lines { out, source } => {
                for byte in bytes.iter().filter(|byte| byte.weight != 0.0) {
                    write_line(out, byte, source)?;
                }
                out.flush()
            }
            Self::Text(text) => {
                for byte in bytes {
                    text.byte(byte)?;
                }
                text.out.flush()
            }
        }
    }

    /// Ends a file or split; colored text then ends its line.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if let Self::Text(text) = self {
            text.flush_begun()?;
            text.color(None)?;
            if !text.line_begins {
                writeln!(text.out)?;
            }
            text.line_begins = true;
            text.out.flush()?;
        }
        Ok(())
    }
}

fn write_line(out: &mut impl Write, byte: &ByteScore, source: &str) -> io::Result<()> {
    // JSON has no NaN or infinity: they become null
    let number = |number: f64| Value::from((number * 1e6).round() / 1e6);
    write!(
        out,
        "{{\"offset\":{},\"byte\":{},\"bits\":{},\"position\":{}",
        byte.offset,
        byte.id,
        number(byte.bits()),
        byte.position
    )?;
    if byte.weight != 1.0 {
        write!(out, ",\"weight\":{}", number(byte.weight))?;
    }
    writeln!(out, "{source}")
}

/// Colored text, character by character.
pub(crate) struct Text<W: Write> {
    out: W,
    state: Utf8State,
    /// The bytes of an incomplete character, with their bits.
    begun: Vec<(u8, f64)>,
    /// The current background.
    level: Option<u8>,
    /// Whether the line is still empty.
    line_begins: bool,
}

impl<W: Write> Text<W> {
    fn byte(&mut self, score: &ByteScore) -> io::Result<()> {
        let bits = if score.weight == 0.0 { 0.0 } else { score.bits() };
        let Ok(byte) = u8::try_from(score.id) else {
            self.flush_begun()?;
            return self.put(level(bits), &format!("<{}>", score.id));
        };
        if self.state.next(byte).is_none() {
            self.flush_begun()?;
        }
        self.begun.push((byte, bits));
        match self.state.next(byte) {
            Some(Utf8State::Boundary) => self.character(),
            Some(state) => {
                self.state = state;
                Ok(())
            }
            None => self.flush_begun(),
        }
    }

    /// Writes the character that has just been completed.
    fn character(&mut self) -> io::Result<()> {
        let bytes: Vec<u8> = self.begun.iter().map(|(byte, _)| *byte).collect();
        let color = level(self.begun.iter().map(|(_, bits)| bits).sum());
        match std::str::from_utf8(&bytes) {
            Ok("\n") => {
                if color.is_some() {
                    self.put(color, "↵")?;
                }
                self.color(None)?; // otherwise the rest of the line is colored too
                writeln!(self.out)?;
                self.line_begins = true;
            }
            Ok(text) if text == "\t" || !text.chars().any(char::is_control) => {
                self.put(color, text)?;
            }
            _ => return self.flush_begun(),
        }
        self.begun.clear();
        self.state = Utf8State::Boundary;
        Ok(())
    }

    /// Writes bytes that are not a valid character.
    fn flush_begun(&mut self) -> io::Result<()> {
        for (byte, bits) in std::mem::take(&mut self.begun) {
            self.put(level(bits), &format!("\\x{byte:02x}"))?;
        }
        self.state = Utf8State::Boundary;
        Ok(())
    }

    fn put(&mut self, color: Option<u8>, text: &str) -> io::Result<()> {
        self.line_begins = false;
        self.color(color)?;
        write!(self.out, "{text}")
    }

    fn color(&mut self, level: Option<u8>) -> io::Result<()> {
        if self.level == level {
            return Ok(());
        }
        self.level = level;
        match level {
            Some(background) => write!(self.out, "{}", escape(background)),
            None => write!(self.out, "\x1b[0m"),
        }
    }
}

/// Returns the background for a number of bits; NaN gets the last one.
fn level(bits: f64) -> Option<u8> {
    let reached = LEVELS.iter().rev().find(|(from, _)| bits >= *from || bits.is_nan());
    reached.map(|(_, background)| *background)
}

fn escape(background: u8) -> String {
    format!("\x1b[38;5;{FOREGROUND};48;5;{background}m")
}

/// Returns the legend of the colors, in one line.
pub(crate) fn legend() -> String {
    let levels = LEVELS.map(|(from, background)| format!("{} {from} or more \x1b[0m", escape(background)));
    format!("bits per character: none below {}, {}", LEVELS[0].0, levels.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(bytes: &[(u8, f64)]) -> Vec<ByteScore> {
        let scores = bytes.iter().enumerate();
        scores
            .map(|(offset, (byte, bits))| ByteScore {
                offset: offset as u64,
                id: u32::from(*byte),
                position: offset,
                nats: bits * std::f64::consts::LN_2,
                weight: 1.0,
            })
            .collect()
    }

    /// Renders text in one call or byte by byte, with `[N ` for the start of background N and `]`
    /// for its end.
    fn colored(bytes: &[(u8, f64)]) -> String {
        let [whole, single] = [bytes.len().max(1), 1].map(|size| {
            let mut out = Vec::new();
            let mut text = Surprisal::text(&mut out);
            for bytes in scores(bytes).chunks(size) {
                text.write(bytes).unwrap();
            }
            text.end().unwrap();
            drop(text);
            String::from_utf8(out).unwrap()
        });
        assert_eq!(whole, single);
        let start = format!("\x1b[38;5;{FOREGROUND};48;5;");
        whole.replace(&start, "[").replace('m', " ").replace("\x1b[0 ", "]")
    }

    #[test]
    fn likely_text_is_plain_and_surprises_are_colored() {
        assert_eq!(
            colored(&[(b'a', 0.2), (b'b', 1.5), (b'c', 1.9), (b'd', 20.0), (b'e', 0.0)]),
            "a[22 bc[196 d]e\n"
        );
    }

    #[test]
    fn a_character_has_the_bits_of_all_its_bytes() {
        let [first, second] = *"é".as_bytes() else { panic!() };
        assert_eq!(colored(&[(first, 0.7), (second, 0.7)]), "[22 é]\n");
    }

    #[test]
    fn what_is_no_text_is_escaped_byte_by_byte() {
        assert_eq!(
            colored(&[(0xff, 0.0), (0x1b, 2.5), (b'\r', 0.0)]),
            "\\xff[28 \\x1b]\\x0d\n"
        );
        // incomplete characters, followed by another character or by the end
        assert_eq!(
            colored(&[(0xc3, 0.0), (b'a', 0.0), (0xe2, 0.0), (0x80, 0.0)]),
            "\\xc3a\\xe2\\x80\n"
        );
        // a control character of two bytes
        assert_eq!(colored(&[(0xc2, 0.0), (0x9b, 0.0)]), "\\xc2\\x9b\n");
    }

    #[test]
    fn colors_end_with_the_line() {
        assert_eq!(
            colored(&[(b'a', 3.0), (b'\n', 3.0), (b'b', 3.0), (b'\n', 0.0)]),
            "[28 a↵]\n[28 b]\n"
        );
    }

    #[test]
    fn lines_leave_out_what_does_not_count() {
        let mut out = Vec::new();
        let mut lines = Surprisal::lines(&mut out);
        lines.begin("file", "a \"b\"", false).unwrap();
        let mut bytes = scores(&[(73, 1.25), (74, 2.0), (75, f64::NAN)]);
        bytes[1].weight = 0.0;
        bytes[2].weight = 0.5;
        lines.write(&bytes).unwrap();
        lines.end().unwrap();
        drop(lines);
        let expected = "{\"offset\":0,\"byte\":73,\"bits\":1.25,\"position\":0,\"file\":\"a \\\"b\\\"\"}\n\
                        {\"offset\":2,\"byte\":75,\"bits\":null,\"position\":2,\"weight\":0.5,\"file\":\"a \\\"b\\\"\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
