//! The end of a stream of ids: stop strings and stop ids.
//!
//! A stop string is found wherever its bytes occur in a row, however steps divide them. Neither it
//! nor a stop id is part of the output, so ids that may begin a stop string are held back, and
//! released once they cannot. Each string has a Knuth-Morris-Pratt automaton: a constant average
//! number of operations per id and string.
//!
//! ```
//! use mblm::generate::{StopReason, StopRules, StopScanner};
//!
//! let rules = StopRules { strings: vec![b"\n\n".to_vec()], ..StopRules::default() };
//! let (mut scanner, mut released) = (StopScanner::new(&rules)?, Vec::new());
//! assert_eq!(scanner.push(u32::from(b'a'), &mut released), None);
//! assert_eq!(scanner.push(u32::from(b'\n'), &mut released), None);
//! assert_eq!(scanner.push(u32::from(b'\n'), &mut released), Some(StopReason::String(0)));
//! assert_eq!(released, [u32::from(b'a')]);
//! # Ok::<(), mblm::Error>(())
//! ```

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The rules that end a stream; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopRules {
    /// Non-empty byte strings.
    pub strings: Vec<Vec<u8>>,
    /// Ids, bytes or special.
    pub ids: Vec<u32>,
    /// Whether the stop text or id is kept in the completion.
    pub keep: bool,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop string, by its index in [`StopRules::strings`].
    String(usize),
    /// A stop id.
    Id(u32),
}

/// Detects the end of one stream.
#[derive(Clone, Debug)]
pub struct StopScanner {
    matchers: Vec<Matcher>,
    ids: Vec<u32>,
    /// The last ids, while they are a prefix of a stop string.
    held: Vec<u32>,
}

impl StopScanner {
    /// Creates a scanner for a stream; matches never include earlier text (a prompt).
    ///
    /// # Errors
    ///
    /// A stop string is empty.
    pub fn new(rules: &StopRules) -> Result<Self> {
        if let Some(index) = rules.strings.iter().position(Vec::is_empty) {
            return Err(Error::input(format!(
                "stop string {} is empty: expected one byte or more",
                index + 1
            )));
        }
        Ok(Self {
            matchers: rules.strings.iter().map(|string| Matcher::new(string)).collect(),
            ids: rules.ids.clone(),
            held: Vec::new(),
        })
    }

    /// Takes the next id and appends to `released` the ids that are certain to be output.
    ///
    /// Returns the reason if a stop string is complete or the id is a stop id. Everything before it
    /// has then been released, and the scanner is reset. The longest of several strings that end
    /// here wins; a string wins over an id.
    pub fn push(&mut self, id: u32, released: &mut Vec<u32>) -> Option<StopReason> {
        for matcher in &mut self.matchers {
            matcher.push(id);
        }
        self.held.push(id);
        let complete = self
            .matchers
            .iter()
            .enumerate()
            .filter(|(_, matcher)| matcher.is_complete());
        // the first of the longest
        let longest = complete.rev().max_by_key(|(_, matcher)| matcher.string.len());
        let stop = match longest {
            Some((index, matcher)) => Some((StopReason::String(index), matcher.string.len())),
            None => self.ids.contains(&id).then_some((StopReason::Id(id), 1)),
        };
        if let Some((reason, length)) = stop {
            // a complete string has been held since its first byte
            self.held.truncate(self.held.len().saturating_sub(length));
            self.finish(released);
            return Some(reason);
        }
        let begun = self.matchers.iter().map(|matcher| matcher.matched).max().unwrap_or(0);
        released.extend(self.held.drain(..self.held.len().saturating_sub(begun)));
        None
    }

    /// Ends a stream without a stop (at its length): releases the held ids and resets the scanner.
    pub fn finish(&mut self, released: &mut Vec<u32>) {
        released.append(&mut self.held);
        for matcher in &mut self.matchers {
            matcher.matched = 0;
        }
    }

    /// The number of ids held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// The matched length of one stop string.
#[derive(Clone, Debug)]
struct Matcher {
    string: Vec<u8>,
    /// `border[n]`: length of the longest proper prefix of the first n + 1 bytes that is also a
    /// suffix.
    border: Vec<usize>,
    matched: usize,
}

impl Matcher {
    fn new(string: &[u8]) -> Self {
        let mut matcher = Self {
            string: string.to_vec(),
            border: vec![0; string.len()],
            matched: 0,
        };
        for (index, &byte) in string.iter().enumerate().skip(1) {
            matcher.push(u32::from(byte));
            matcher.border[index] = matcher.matched;
        }
        matcher.matched = 0;
        matcher
    }

    fn is_complete(&self) -> bool {
        self.matched == self.string.len()
    }

    fn push(&mut self, id: u32) {
        while self.matched > 0 && self.string.get(self.matched).copied().map(u32::from) != Some(id) {
            self.matched = self.border[self.matched - 1];
        }
        if self.string.get(self.matched).copied().map(u32::from) == Some(id) {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::ids_from_bytes;

    fn scan(scanner: &mut StopScanner, ids: &[u32]) -> (Vec<u32>, Option<StopReason>) {
        let mut released = Vec::new();
        for &id in ids {
            if let Some(reason) = scanner.push(id, &mut released) {
                return (released, Some(reason));
            }
        }
        scanner.finish(&mut released);
        (released, None)
    }

    /// By definition: the first end of any string or id; of strings that end there, the longest.
    fn expected(rules: &StopRules, ids: &[u32]) -> (Vec<u32>, Option<StopReason>) {
        for end in 1..=ids.len() {
            let mut longest: Option<(usize, usize)> = None;
            for (index, string) in rules.strings.iter().enumerate() {
                let length = string.len();
                if ids[..end].ends_with(&ids_from_bytes(string)) && longest.is_none_or(|(_, other)| other < length) {
                    longest = Some((index, length));
                }
            }
            if let Some((index, length)) = longest {
                return (ids[..end - length].to_vec(), Some(StopReason::String(index)));
            }
            if rules.ids.contains(&ids[end - 1]) {
                return (ids[..end - 1].to_vec(), Some(StopReason::Id(ids[end - 1])));
            }
        }
        (ids.to_vec(), None)
    }

    /// Rules over an alphabet so small that strings overlap themselves and one another.
    fn rules() -> impl Strategy<Value = StopRules> {
        let string = prop::collection::vec(1u8..3, 1..7);
        (
            prop::collection::vec(string, 0..4),
            prop::collection::vec(4u32..300, 0..2),
        )
            .prop_map(|(strings, ids)| StopRules {
                strings,
                ids,
                keep: false,
            })
    }

    fn stream() -> impl Strategy<Value = Vec<u32>> {
        let id = prop_oneof![20 => 1u32..3, 1 => Just(3u32), 1 => 250u32..300];
        prop::collection::vec(id, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn ends_where_the_definition_says(rules in rules(), first in stream(), second in stream()) {
            let mut scanner = StopScanner::new(&rules)?;
            prop_assert_eq!(scan(&mut scanner, &first), expected(&rules, &first));
            prop_assert_eq!(scanner.held(), 0);
            prop_assert_eq!(scan(&mut scanner, &second), expected(&rules, &second));
        }

        /// The held ids are always the longest suffix of the stream that begins a stop string.
        #[test]
        fn holds_only_what_could_be_a_beginning(rules in rules(), ids in stream()) {
            let mut scanner = StopScanner::new(&rules)?;
            let mut released = Vec::new();
            for (index, &id) in ids.iter().enumerate() {
                if scanner.push(id, &mut released).is_some() {
                    break;
                }
                let so_far = &ids[..=index];
                let begins = |end: &[u32]| rules.strings.iter().any(|string| ids_from_bytes(string).starts_with(end));
                let start = (0..so_far.len()).find(|&start| begins(&so_far[start..])).unwrap_or(so_far.len());
                prop_assert_eq!(&released, &so_far[..start]);
                prop_assert_eq!(scanner.held(), so_far.len() - start);
            }
        }
    }

    #[test]
    fn an_id_above_255_is_no_byte() {
        let rules = StopRules {
            strings: vec![b"ab".to_vec()],
            ids: vec![],
            keep: false,
        };
        let ids = [u32::from(b'a'), 256 + u32::from(b'b'), u32::from(b'b')];
        assert_eq!(scan(&mut StopScanner::new(&rules).unwrap(), &ids), (ids.to_vec(), None));
    }

    #[test]
    fn a_stop_id_releases_what_was_held() {
        let rules = StopRules {
            strings: vec![b"END".to_vec()],
            ids: vec![257],
            keep: false,
        };
        let found = scan(&mut StopScanner::new(&rules).unwrap(), &[69, 78, 257, 69]);
        assert_eq!(found, (vec![69, 78], Some(StopReason::Id(257))));
    }

    #[test]
    fn empty_strings_are_refused() {
        let rules = StopRules {
            strings: vec![b"a".to_vec(), vec![]],
            ids: vec![],
            keep: false,
        };
        let message = StopScanner::new(&rules).unwrap_err().to_string();
        assert!(message.contains("stop string 2 is empty"), "{message}");
    }
}
