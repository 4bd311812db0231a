//! Sets of ids, as ranges: `0-127,200`.
//!
//! A set is a sorted list of ranges that neither overlap nor touch, so every set has one form, "all
//! ids" needs no vocabulary size, and sets stay small. As text (options, configs) a set is a
//! comma-separated list of numbers, ranges and names: `all`, `none`, `bytes` (0–255), `printable`
//! (ASCII from space to `~`, newline and tab).
//!
//! ```
//! use mblm::generate::TokenSet;
//!
//! let set: TokenSet = "0-127,200".parse()?;
//! assert!(set.contains(200) && !set.contains(128));
//! # Ok::<(), mblm::Error>(())
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bytes::BYTE_IDS;
use crate::bytes::escape::{self, Typed};
use crate::{Error, Result};

/// A set of ids: see the [module](self).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenSet {
    /// First and last id of each range, ascending, with at least one missing id between ranges.
    ranges: Vec<(u32, u32)>,
}

impl TokenSet {
    /// Every id.
    pub fn all() -> Self {
        Self::from_ranges([(0, u32::MAX)])
    }

    /// No id.
    pub fn none() -> Self {
        Self::from_ranges([])
    }

    /// The ids that are bytes, 0 to 255.
    pub fn bytes() -> Self {
        Self::from_ranges([(0, BYTE_IDS - 1)])
    }

    /// Printable ASCII, newline and tab.
    pub fn printable() -> Self {
        let code = u32::from;
        let range = |first, last| (code(first), code(last));
        Self::from_ranges([range(b' ', b'~'), range(b'\t', b'\t'), range(b'\n', b'\n')])
    }

    /// ASCII, 0 to 127.
    pub fn ascii() -> Self {
        Self::from_ranges([(0, 127)])
    }

    /// Parses a list of characters, such as `a-z0-9 \n`: ranges with a hyphen, and
    /// [escapes](crate::bytes::escape) of bytes. A first, last or escaped hyphen stands for itself.
    ///
    /// # Errors
    /// An empty list, a range from high to low, an unknown escape, or a character of several bytes.
    pub fn from_characters(list: &str) -> Result<Self> {
        let typed = escape::typed(list)?;
        if typed.is_empty() {
            return Err(Error::input(
                "a set of bytes is empty: expected a list such as `a-z0-9 \\n`",
            ));
        }
        let mut ranges = Vec::new();
        let mut rest = &typed[..];
        while let Some((&first, after)) = rest.split_first() {
            let first = byte(first)?;
            let (last, after) = match after {
                [Typed::Character('-'), last, after @ ..] => (byte(*last)?, after),
                _ => (first, after),
            };
            if last < first {
                return Err(Error::input(format!(
                    "`{list}`: expected ranges from low to high, found one from byte {first} to byte {last}; write a \
                     hyphen that is not part of a range as \\-"
                )));
            }
            ranges.push((u32::from(first), u32::from(last)));
            rest = after;
        }
        Ok(Self::from_ranges(ranges))
    }

    /// The ids of ranges (first and last id), in any order. A range that ends too early is empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut given: Vec<(u32, u32)> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        given.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::with_capacity(given.len());
        for (first, last) in given {
            match ranges.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    /// Whether the set contains `id`.
    pub fn contains(&self, id: u32) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= id);
        after.checked_sub(1).is_some_and(|range| id <= self.ranges[range].1)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ids of either set.
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied())
    }

    /// The ids of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                ranges.push((first, last));
            }
            if a.1 < b.1 {
                ours.next();
            } else {
                theirs.next();
            }
        }
        Self { ranges }
    }

    /// The ids not in the set, such as the allowed ids from the forbidden ones.
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = Some(0);
        for &(first, last) in &self.ranges {
            if let (Some(start), Some(end)) = (next, first.checked_sub(1))
                && start <= end
            {
                ranges.push((start, end));
            }
            next = last.checked_add(1);
        }
        ranges.extend(next.map(|start| (start, u32::MAX)));
        Self { ranges }
    }

    /// The set's ids below `vocabulary`, ascending.
    pub fn ids_below(&self, vocabulary: u32) -> impl Iterator<Item = u32> + '_ {
        self.ranges
            .iter()
            .flat_map(move |&(first, last)| first..last.saturating_add(1).min(vocabulary))
    }
}

/// Collects ids.
impl FromIterator<u32> for TokenSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        Self::from_ranges(ids.into_iter().map(|id| (id, id)))
    }
}

impl FromStr for TokenSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split(',').try_fold(Self::none(), |set, item| {
            let item = item.trim();
            let part = match item {
                "all" => Self::all(),
                "none" => Self::none(),
                "bytes" => Self::bytes(),
                "printable" => Self::printable(),
                _ => Self::from_ranges([parse_range(item)?]),
            };
            Ok(set.union(&part))
        })
    }
}

/// The byte of a typed character or escape.
fn byte(typed: Typed) -> Result<u8> {
    match typed {
        Typed::Escaped(byte) => Ok(byte),
        Typed::Character(character) => u8::try_from(character).ok().filter(u8::is_ascii).ok_or_else(|| {
            Error::input(format!(
                "`{character}` has {} bytes and cannot be in a set of bytes: expected ASCII, or bytes as in \\xc3",
                character.len_utf8()
            ))
        }),
    }
}

/// `200` or `0-127`.
fn parse_range(item: &str) -> Result<(u32, u32)> {
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let parsed = first.trim().parse().and_then(|first| Ok((first, last.trim().parse()?)));
    match parsed {
        Ok((first, last)) if first <= last => Ok((first, last)),
        _ => Err(Error::input(format!(
            "`{item}` is not a set of ids: expected an id (`200`), a range from low to high (`0-127`), `all`, `none`, \
             `bytes` or `printable`, or several of these separated by commas"
        ))),
    }
}

impl fmt::Display for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ranges.as_slice() {
            [] => f.write_str("none"),
            [(0, u32::MAX)] => f.write_str("all"),
            ranges => ranges.iter().enumerate().try_for_each(|(index, (first, last))| {
                let comma = if index == 0 { "" } else { "," };
                if first == last {
                    write!(f, "{comma}{first}")
                } else {
                    write!(f, "{comma}{first}-{last}")
                }
            }),
        }
    }
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSet({self})")
    }
}

impl TryFrom<String> for TokenSet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TokenSet> for String {
    fn from(set: TokenSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Some ids near both ends of `u32`, where arithmetic could overflow.
    fn ids() -> impl Strategy<Value = BTreeSet<u32>> {
        prop::collection::btree_set(prop_oneof![0u32..40, (u32::MAX - 40)..=u32::MAX], 0..40)
    }

    fn probes() -> impl Iterator<Item = u32> {
        (0..45).chain((u32::MAX - 45)..=u32::MAX)
    }

    proptest! {
        #[test]
        fn operations_are_those_of_sets(a in ids(), b in ids()) {
            let (x, y): (TokenSet, TokenSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(x.is_empty(), a.is_empty());
            for id in probes() {
                prop_assert_eq!(x.contains(id), a.contains(&id));
                prop_assert_eq!(x.union(&y).contains(id), a.contains(&id) || b.contains(&id));
                prop_assert_eq!(x.intersection(&y).contains(id), a.contains(&id) && b.contains(&id));
                prop_assert_eq!(x.complement().contains(id), !a.contains(&id));
            }
            let below: Vec<u32> = a.iter().copied().filter(|&id| id < 20).collect();
            prop_assert_eq!(x.ids_below(20).collect::<Vec<_>>(), below);
        }

        /// Equal sets compare equal, however they were made.
        #[test]
        fn form_is_unique(a in ids(), b in ids()) {
            let (x, y): (TokenSet, TokenSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(&x.complement().complement(), &x);
            prop_assert_eq!(x.union(&y).complement(), x.complement().intersection(&y.complement()));
            prop_assert_eq!(&x.to_string().parse::<TokenSet>()?, &x);
            let json = serde_json::to_string(&x)?;
            prop_assert_eq!(serde_json::from_str::<TokenSet>(&json)?, x);
        }
    }

    #[test]
    fn text_forms() {
        let check = |text: &str, expected: &str| assert_eq!(text.parse::<TokenSet>().unwrap().to_string(), expected);
        check("0-127,200", "0-127,200");
        check(" 5 - 7 , 1, 6-9,4", "1,4-9");
        check("bytes,256", "0-256");
        check("printable", "9-10,32-126");
        check("none,3", "3");
        check("0-4294967295", "all");
        for text in ["", "1,,2", "7-5", "a", "-1", "4294967296", "1-2-3", "1.5"] {
            let message = text.parse::<TokenSet>().unwrap_err().to_string();
            assert!(message.contains("is not a set of ids"), "{text}: {message}");
        }
    }

    #[test]
    fn lists_of_characters() {
        let check =
            |list: &str, expected: &str| assert_eq!(TokenSet::from_characters(list).unwrap().to_string(), expected);
        check("a-c", "97-99");
        check("a-z0-9 \\n", "10,32,48-57,97-122");
        check("-a", "45,97");
        check("a-", "45,97");
        check("a\\-c", "45,97,99");
        check("a-c-e", "45,97-99,101");
        check("--a", "45-97");
        check("\\x80-\\xff", "128-255");
        check("\\\\", "92");
        for (list, part) in [
            ("", "is empty"),
            ("z-a", "from byte 122 to byte 97"),
            ("é", "`é` has 2 bytes"),
            ("a-é", "`é` has 2 bytes"),
            ("\\q", "found `q`"),
        ] {
            let message = TokenSet::from_characters(list).unwrap_err().to_string();
            assert!(message.contains(part), "{list}: {message}");
        }
    }

    #[test]
    fn printable_is_text_without_control_characters() {
        let expected: TokenSet = (0..=127u8)
            .filter(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t'))
            .map(u32::from)
            .collect();
        assert_eq!(TokenSet::printable(), expected);
    }
}
