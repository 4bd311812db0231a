//! Reads `questions/CLEVR_{train,val}_questions.json` as a stream: `{"questions": [{question,
//! answer, image_filename, question_family_index, program: [{function, …}]}]}`. Of a program only
//! the last function is kept, as the type of the question.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::kinds::QuestionType;
use mblm::data::{OnOpening, Opening, as_standard_json};
use mblm::{Error, Result};

/// The mark that editors on Windows put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes between two reports of progress.
const REPORT_EVERY: u64 = 1 << 24;

/// A question about an image, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question as text.
    pub text: Box<str>,
    /// The right answer.
    pub answer: Box<str>,
    /// Its type; `None` if its program is missing or of an unknown type.
    pub kind: Option<QuestionType>,
    /// The number of its template.
    pub family: Option<u32>,
    /// The index of its image in [`Questions::images`].
    pub(super) image: usize,
}

/// The questions of a file, and the names of their images.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// The questions in the order of the file.
    pub list: Vec<Question>,
    /// The names of image files, each once, in order of first use.
    pub images: Vec<Box<str>>,
}

impl Questions {
    /// Reads a file of questions; reports the progress to `on_opening`.
    ///
    /// # Errors
    /// A file that is missing, not JSON, or has an entry without question, answer or image: the
    /// message gives its number, from 0, and its line.
    pub fn read(path: &Path, on_opening: Option<OnOpening>) -> Result<Self> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::file(
                path,
                "no such file; expected the folder of CLEVR, with images/ and questions/ in it",
            ),
            _ => Error::file(path, error),
        };
        let file = File::open(path).map_err(failed)?;
        let total = file.metadata().map_err(failed)?.len();
        let counted = Counted {
            file,
            path,
            done: 0,
            reported: 0,
            total,
            on_opening,
        };
        let mut reader = BufReader::with_capacity(1 << 17, counted);
        if reader.fill_buf().map_err(failed)?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        let parsed: TopLevel = serde_json::from_reader(reader).or_else(|error| leniently(path, &error))?;
        if parsed.0.list.is_empty() {
            return Err(Error::file(path, "expected questions, found an empty list"));
        }
        Ok(parsed.0)
    }
}

/// Reads questions with JSON that only Python writes, such as NaN; otherwise returns the strict
/// reader's error.
fn leniently(path: &Path, error: &serde_json::Error) -> Result<TopLevel> {
    let bytes = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let lenient = as_standard_json(bytes).map(|standard| serde_json::from_slice(&standard));
    match (lenient, bytes) {
        (Some(Ok(parsed)), _) => Ok(parsed),
        (_, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) => Err(Error::file(
            path,
            "expected JSON in UTF-8, found UTF-16 (by its byte order mark): `iconv -f UTF-16 -t UTF-8 FILE > NEW` converts it",
        )),
        _ => Err(Error::file(
            path,
            format!("expected the questions of CLEVR as JSON: {error}"),
        )),
    }
}

/// A reader that reports its progress.
struct Counted<'a> {
    file: File,
    path: &'a Path,
    done: u64,
    reported: u64,
    total: u64,
    on_opening: Option<OnOpening>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        if let Some(report) = &self.on_opening
            && (self.done - self.reported >= REPORT_EVERY || count == 0 && self.total > REPORT_EVERY)
        {
            self.reported = self.done;
            report(Opening {
                path: self.path,
                done: self.done,
                total: self.total,
            });
        }
        Ok(count)
    }
}

/// The object around the questions.
struct TopLevel(Questions);

impl<'de> Deserialize<'de> for TopLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = TopLevel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a list `questions`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TopLevel, A::Error> {
                let mut questions = None;
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "questions" => questions = Some(map.next_value::<List>()?.0),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                questions
                    .map(TopLevel)
                    .ok_or_else(|| A::Error::missing_field("questions"))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The list of questions.
struct List(Questions);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of questions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<List, A::Error> {
                let mut questions = Questions::default();
                let mut known = HashMap::new();
                loop {
                    let entry = entries.next_element::<Entry>();
                    let number = questions.list.len();
                    let named = |error| A::Error::custom(format_args!("question {number}: {error}"));
                    let Some(entry) = entry.map_err(named)? else {
                        return Ok(List(questions));
                    };
                    let image = *known.entry(entry.image_filename).or_insert_with_key(|name| {
                        questions.images.push(name.as_str().into());
                        questions.images.len() - 1
                    });
                    questions.list.push(Question {
                        text: entry.question.into(),
                        answer: entry.answer.into(),
                        kind: entry.program.and_then(|program| program.0),
                        family: entry.question_family_index,
                        image,
                    });
                }
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

/// A question in the file; other fields are ignored.
#[derive(serde::Deserialize)]
struct Entry {
    question: String,
    answer: String,
    image_filename: String,
    question_family_index: Option<u32>,
    program: Option<Program>,
}

/// The question type of a program's last function.
struct Program(Option<QuestionType>);

impl<'de> Deserialize<'de> for Program {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Step {
            function: String,
        }

        struct Steps;
        impl<'de> Visitor<'de> for Steps {
            type Value = Program;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of functions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut steps: A) -> Result<Program, A::Error> {
                let mut last = None;
                while let Some(step) = steps.next_element::<Step>()? {
                    last = Some(step.function);
                }
                Ok(Program(last.as_deref().and_then(QuestionType::of)))
            }
        }
        deserializer.deserialize_seq(Steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(function: &str) -> Value {
        json!({
            "question": "How many?", "answer": "2", "image_filename": "a.png", "question_family_index": 7, "image_index": 0,
            "program": [
                {"function": "scene", "inputs": [], "value_inputs": []},
                {"function": function, "inputs": [0], "value_inputs": ["x"]},
            ],
        })
    }

    fn read(text: &str) -> Result<Questions> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Questions::read(file.path(), None)
    }

    #[test]
    fn the_last_function_decides_the_type() {
        // as in the specification
        for (functions, kind) in [
            ("exist", QuestionType::Exist),
            ("count", QuestionType::Count),
            ("equal_integer less_than greater_than", QuestionType::CompareInteger),
            (
                "query_size query_material query_shape query_color",
                QuestionType::QueryAttribute,
            ),
            (
                "equal_size equal_material equal_shape equal_color",
                QuestionType::CompareAttribute,
            ),
        ] {
            for function in functions.split(' ') {
                let questions = read(&json!({"info": {}, "questions": [entry(function)]}).to_string()).unwrap();
                assert_eq!(questions.list[0].kind, Some(kind), "{function}");
            }
        }
        let mut bare = entry("scene");
        let unknown = read(&json!({"questions": [bare]}).to_string()).unwrap();
        assert_eq!(unknown.list[0].kind, None);
        for key in ["program", "question_family_index"] {
            bare.as_object_mut().unwrap().remove(key);
        }
        let question = read(&json!({"questions": [bare]}).to_string()).unwrap().list.remove(0);
        assert_eq!((question.kind, question.family), (None, None));
    }

    #[test]
    fn images_are_named_once() {
        let mut other = entry("exist");
        other["image_filename"] = "b.png".into();
        let questions = read(&json!({"questions": [entry("count"), other, entry("exist")]}).to_string()).unwrap();
        let images: Vec<usize> = questions.list.iter().map(|question| question.image).collect();
        assert_eq!(images, [0, 1, 0]);
        assert_eq!(questions.images, ["a.png".into(), "b.png".into()]);
        assert_eq!(questions.list[0].family, Some(7));
    }

    #[test]
    fn a_wrong_entry_is_named() {
        let mut lacking = entry("count");
        lacking.as_object_mut().unwrap().remove("answer");
        let text = format!("{:#}", json!({"questions": [entry("count"), lacking]}));
        let message = read(&text).unwrap_err().to_string();
        // the line on which the object ends
        let line = text.lines().count() - 2;
        let expected = format!("question 1: missing field `answer` at line {line} column");
        assert!(message.contains(&expected), "{message}");
        for (text, part) in [
            ("{", "EOF"),
            ("[]", "an object with a list `questions`"),
            ("{}", "missing field `questions`"),
            ("{\"questions\": []}", "an empty list"),
            (
                "{\"questions\": [{\"question\": 3}]}",
                "question 0: invalid type: integer `3`",
            ),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        let message = Questions::read(Path::new("/nowhere/q.json"), None)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("/nowhere/q.json: no such file; expected the folder of CLEVR"),
            "{message}"
        );
    }
}
