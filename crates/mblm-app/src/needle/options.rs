//! The task's options, checked: what a needle and a query look like, how many there are, and where.
//!
//! A format is text with `{key}` and, after it, `{value}`. With n needles of N bytes and q queries of Q bytes, a sample of L
//! bytes has H = L − n·N − q·Q bytes of natural text.

use mblm::data::Reading;
use mblm::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the loss is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The values asked for, with weight 1; every other byte with weight `text_weight`.
    #[default]
    Answer,
    /// Every byte, with weight 1.
    All,
}

/// The options of data set `needle`, as `io.dataset_args` gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeedleOptions {
    /// Key–value pairs hidden in a sample.
    pub needles: usize,
    /// Of them, how many are asked for at the end, each once.
    pub queries: usize,
    /// Characters of a key.
    pub key_len: usize,
    /// Characters of a value.
    pub value_len: usize,
    /// The characters of keys, ASCII.
    pub key_alphabet: String,
    /// The characters of values, ASCII.
    pub value_alphabet: String,
    /// What a needle looks like, with `{key}` and `{value}` in it.
    pub needle_format: String,
    /// What a query and its answer look like, with `{key}` and `{value}` in it.
    pub query_format: String,
    /// The share of the natural text, 0 to 1, that is before the needle asked for last; uniformly random if absent, as that of
    /// the other needles always is.
    pub depth: Option<f64>,
    /// Needles and queries begin at multiples of this many bytes.
    pub align: usize,
    /// What the loss is taken of.
    pub loss_on: LossOn,
    /// The weight of bytes that are no answer, with [`LossOn::Answer`]; 0 if absent.
    pub text_weight: Option<f32>,
    /// The share of the text kept for validation and test, as of data set `bytes`.
    pub held_out: Option<f64>,
    /// The field of JSON Lines that is the text, as of data set `bytes`.
    pub text_field: Option<String>,
    /// Lines without such a text are left out, as of data set `bytes`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_bad_lines: bool,
    /// Compressed files are text as they are, as of data set `bytes`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

impl NeedleOptions {
    /// How the files with the text are read.
    pub(super) fn reading(&self) -> Result<Reading> {
        Reading::from_options(self.text_field.clone(), self.skip_bad_lines, self.raw)
    }
}

impl Default for NeedleOptions {
    fn default() -> Self {
        Self {
            needles: 1,
            queries: 1,
            key_len: 3,
            value_len: 4,
            key_alphabet: ('a'..='z').collect(),
            value_alphabet: ('0'..='9').collect(),
            needle_format: "[key {key}: {value}]\n".into(),
            query_format: "[key {key}? {value}]\n".into(),
            depth: None,
            align: 1,
            loss_on: LossOn::Answer,
            text_weight: None,
            held_out: None,
            text_field: None,
            skip_bad_lines: false,
            raw: false,
        }
    }
}

/// A format cut at its key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    before: Vec<u8>,
    between: Vec<u8>,
    after: Vec<u8>,
}

impl Template {
    fn new(option: &str, format: &str) -> Result<Self> {
        let wrong = || {
            let example = "such as \"[key {key}: {value}]\\n\"";
            problem(format!(
                "{option} is {format:?}: expected text with {{key}} and after it {{value}}, each once, {example}"
            ))
        };
        let (before, rest) = format.split_once("{key}").ok_or_else(wrong)?;
        let (between, after) = rest.split_once("{value}").ok_or_else(wrong)?;
        if [before, between, after]
            .iter()
            .any(|part| part.contains("{key}") || part.contains("{value}"))
        {
            return Err(wrong());
        }
        Ok(Self {
            before: before.into(),
            between: between.into(),
            after: after.into(),
        })
    }

    /// Bytes beside key and value.
    fn fixed(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// Appends a pair in this format; where its value begins.
    pub(super) fn write(&self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> usize {
        for part in [&self.before, key, &self.between] {
            out.extend_from_slice(part);
        }
        let begin = out.len();
        out.extend_from_slice(value);
        out.extend_from_slice(&self.after);
        begin
    }

    /// Whether the text around key and value has these bytes in it.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let within = |part: &Vec<u8>| memchr::memmem::find(part, key).is_some();
        within(&self.before) || within(&self.between) || within(&self.after)
    }
}

/// Options that fit together.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub(super) options: NeedleOptions,
    pub(super) needle: Template,
    pub(super) query: Template,
}

impl Task {
    /// Checks options.
    ///
    /// # Errors
    /// Names the option, what was expected and what was found.
    pub fn new(options: NeedleOptions) -> Result<Self> {
        let NeedleOptions { needles, queries, .. } = options;
        if needles == 0 || queries == 0 || queries > needles {
            return Err(problem(format!(
                "needles is {needles} and queries is {queries}: expected at least one needle, and 1 to that many queries"
            )));
        }
        check_alphabet("key", options.key_len, &options.key_alphabet)?;
        check_alphabet("value", options.value_len, &options.value_alphabet)?;
        let length = u32::try_from(options.key_len).unwrap_or(u32::MAX);
        let keys = options.key_alphabet.len().saturating_pow(length);
        if keys < needles {
            return Err(problem(format!(
                "needles is {needles}, but there are only {keys} keys of {} characters of key_alphabet; raise key_len",
                options.key_len
            )));
        }
        if let Some(depth) = options.depth.filter(|depth| !(0.0..=1.0).contains(depth)) {
            return Err(problem(format!(
                "depth is {depth}: expected the share of the text before the needle, 0 to 1"
            )));
        }
        if let Some(weight) = options.text_weight {
            if options.loss_on == LossOn::All {
                return Err(problem(
                    "text_weight goes with loss_on: answer; with loss_on: all every byte has weight 1".into(),
                ));
            }
            if !(0.0..=1.0).contains(&weight) {
                return Err(problem(format!("text_weight is {weight}: expected a weight, 0 to 1")));
            }
        }
        let task = Self {
            needle: Template::new("needle_format", &options.needle_format)?,
            query: Template::new("query_format", &options.query_format)?,
            options,
        };
        task.check_align()?;
        Ok(task)
    }

    fn check_align(&self) -> Result<()> {
        let align = self.options.align;
        if align == 0 {
            return Err(problem("align is 0: expected 1 (any place) or more bytes".into()));
        }
        for (what, len) in [("needle", self.needle_len()), ("query", self.query_len())] {
            if len % align != 0 {
                return Err(problem(format!(
                    "align is {align}, so that {what}s begin at multiples of it, but a {what} has {len} bytes; lengthen \
                     {what}_format by {}",
                    align - len % align
                )));
            }
        }
        Ok(())
    }

    /// The options that were given.
    pub fn options(&self) -> &NeedleOptions {
        &self.options
    }

    /// Bytes of a needle.
    pub fn needle_len(&self) -> usize {
        self.pair_len(&self.needle)
    }

    /// Bytes of a query with its answer.
    pub fn query_len(&self) -> usize {
        self.pair_len(&self.query)
    }

    fn pair_len(&self, template: &Template) -> usize {
        let NeedleOptions { key_len, value_len, .. } = self.options;
        template.fixed().saturating_add(key_len).saturating_add(value_len)
    }

    /// Bytes of all needles and queries of a sample.
    pub fn fixed_len(&self) -> usize {
        let NeedleOptions { needles, queries, .. } = self.options;
        let needles = needles.saturating_mul(self.needle_len());
        needles.saturating_add(queries.saturating_mul(self.query_len()))
    }

    /// Bytes of natural text in a sample of `len` bytes.
    ///
    /// # Errors
    /// There is no room for any, or the queries would not begin at a multiple of `align`.
    pub fn haystack_len(&self, len: usize) -> Result<usize> {
        let (fixed, align) = (self.fixed_len(), self.options.align);
        if len <= fixed {
            return Err(Error::input(format!(
                "a sample of {len} bytes is too short: {} needles of {} bytes and {} queries of {} take {fixed}; expected more \
                 than that; raise input_seq_len, or lower needles or queries",
                self.options.needles,
                self.needle_len(),
                self.options.queries,
                self.query_len()
            )));
        }
        if !len.is_multiple_of(align) {
            return Err(Error::input(format!(
                "a sample of {len} bytes: expected a multiple of align, which is {align}, so that queries begin at one"
            )));
        }
        Ok(len - fixed)
    }

    /// Whether a model that reads patches of `patch` bytes can answer the last query of a sample of `len` bytes: the value begins
    /// in a later patch than the key asked for ends in. Within a patch nothing tells it what stood long before.
    pub fn answerable(&self, len: usize, patch: usize) -> bool {
        let value = len.saturating_sub(self.options.value_len + self.query.after.len());
        let key_end = value.saturating_sub(self.query.between.len());
        patch <= 1 || value / patch > key_end.saturating_sub(1) / patch
    }
}

fn check_alphabet(what: &str, len: usize, alphabet: &str) -> Result<()> {
    if len == 0 {
        return Err(problem(format!("{what}_len is 0: expected at least one character")));
    }
    let mut characters: Vec<char> = alphabet.chars().collect();
    characters.sort_unstable();
    if characters.len() < 2 || !alphabet.is_ascii() || characters.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(problem(format!(
            "{what}_alphabet is {alphabet:?}: expected two ASCII characters or more, each once"
        )));
    }
    Ok(())
}

fn problem(message: String) -> Error {
    Error::config(format!("dataset_args: {message}"))
}
