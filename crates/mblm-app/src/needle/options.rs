//! The checked options of the task: formats, numbers and positions of needles and queries.
//!
//! A format is text with `{key}` and, after it, `{value}`. With n needles of N bytes and q queries
//! of Q bytes, a sample of L bytes has H = L − n·N − q·Q bytes of natural text.

use mblm::data::Reading;
use mblm::{Error, Result};
use serde::{Deserialize, Serialize};

/// The bytes that the loss counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The values of queries, with weight 1; every other byte with weight `text_weight`.
    #[default]
    Answer,
    /// Every byte, with weight 1.
    All,
}

/// The options of data set `needle`: the keys of `io.dataset_args`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeedleOptions {
    /// The number of key–value pairs hidden in a sample.
    pub needles: usize,
    /// The number of them that are queried at the end, each once.
    pub queries: usize,
    /// The number of characters of a key.
    pub key_len: usize,
    /// The number of characters of a value.
    pub value_len: usize,
    /// The characters of keys, ASCII.
    pub key_alphabet: String,
    /// The characters of values, ASCII.
    pub value_alphabet: String,
    /// The format of a needle, with `{key}` and `{value}` in it.
    pub needle_format: String,
    /// The format of a query with its answer, with `{key}` and `{value}` in it.
    pub query_format: String,
    /// The share of the natural text, 0 to 1, before the needle of the last query; uniformly random
    /// if absent. The depths of the other needles are always random.
    pub depth: Option<f64>,
    /// Needles and queries begin at multiples of this many bytes.
    pub align: usize,
    /// The bytes that the loss counts.
    pub loss_on: LossOn,
    /// The weight of bytes outside the answers, with [`LossOn::Answer`]; 0 if absent.
    pub text_weight: Option<f32>,
    /// The share of the text kept for validation and test, as of data set `bytes`.
    pub held_out: Option<f64>,
    /// The JSON Lines field that holds the text, as of data set `bytes`.
    pub text_field: Option<String>,
    /// Skips lines without such a text, as of data set `bytes`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_bad_lines: bool,
    /// Takes the bytes of compressed files as text, as of data set `bytes`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

impl NeedleOptions {
    /// Returns how to read the files with the text.
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

/// A format split at its key and value.
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

    /// The number of bytes outside key and value.
    fn fixed(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// Appends a pair in this format. Returns the offset of its value.
    pub(super) fn write(&self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> usize {
        for part in [&self.before, key, &self.between] {
            out.extend_from_slice(part);
        }
        let begin = out.len();
        out.extend_from_slice(value);
        out.extend_from_slice(&self.after);
        begin
    }

    /// Whether the text around key and value contains `key`.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let within = |part: &Vec<u8>| memchr::memmem::find(part, key).is_some();
        within(&self.before) || within(&self.between) || within(&self.after)
    }
}

/// The checked options and their formats.
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
    /// Names the option, the expected value and the found one.
    pub fn new(options: NeedleOptions) -> Result<Self> {
        let NeedleOptions { needles, queries, .. } = options;
        if needles == 0 || queries == 0 || queries > needles {
            return Err(problem(format!(
                "needles is {needles} and queries is {queries}: expected at least one needle, and 1 to as many queries \
                 as needles"
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
                    "text_weight needs loss_on: answer; with loss_on: all, every byte has weight 1".into(),
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
                    "align is {align}: expected a {what} whose length is a multiple of it, found {len} bytes; lengthen \
                     {what}_format by {}",
                    align - len % align
                )));
            }
        }
        Ok(())
    }

    /// Returns the options.
    pub fn options(&self) -> &NeedleOptions {
        &self.options
    }

    /// The length of a needle in bytes.
    pub fn needle_len(&self) -> usize {
        self.pair_len(&self.needle)
    }

    /// The length of a query with its answer, in bytes.
    pub fn query_len(&self) -> usize {
        self.pair_len(&self.query)
    }

    fn pair_len(&self, template: &Template) -> usize {
        let NeedleOptions { key_len, value_len, .. } = self.options;
        template.fixed().saturating_add(key_len).saturating_add(value_len)
    }

    /// The total length of the needles and queries of a sample, in bytes.
    pub fn fixed_len(&self) -> usize {
        let NeedleOptions { needles, queries, .. } = self.options;
        let needles = needles.saturating_mul(self.needle_len());
        needles.saturating_add(queries.saturating_mul(self.query_len()))
    }

    /// The bytes of natural text in a sample of `len` bytes.
    ///
    /// # Errors
    /// There is no room for text, or the queries would not begin at a multiple of `align`.
    pub fn haystack_len(&self, len: usize) -> Result<usize> {
        let (fixed, align) = (self.fixed_len(), self.options.align);
        if len <= fixed {
            return Err(Error::input(format!(
                "a sample of {len} bytes is too short: {} needles of {} bytes and {} queries of {} take {fixed} bytes; \
                 expected a longer sample; raise input_seq_len, or lower needles or queries",
                self.options.needles,
                self.needle_len(),
                self.options.queries,
                self.query_len()
            )));
        }
        if !len.is_multiple_of(align) {
            return Err(Error::input(format!(
                "a sample of {len} bytes: expected a multiple of align, which is {align}"
            )));
        }
        Ok(len - fixed)
    }

    /// Whether a model with patches of `patch` bytes can answer the last query of a sample of `len`
    /// bytes: the value must begin in a later patch than the patch in which the query's key ends.
    /// Within a patch, the model sees no earlier context that depends on the key.
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
