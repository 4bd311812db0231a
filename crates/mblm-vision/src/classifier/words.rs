//! Questions as word numbers: the words of the training questions, in alphabetical order, are
//! numbered from 2.
//!
//! A word is a run of letters and digits, in lower case. Number 0 pads short questions on the left,
//! so the last number is always the last word; number 1 is any unknown word.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The number that pads short questions.
pub(super) const PADDING: u32 = 0;
const UNKNOWN: u32 = 1;
const FIRST: u32 = 2;
/// The length in words up to which a question is read whole.
const LONGEST: usize = 1024;

/// The known words, and the number of words read per question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    /// In alphabetical order.
    words: Vec<String>,
    /// The length of the longest question in words; of longer ones only the end is read.
    longest: usize,
}

impl Words {
    /// Collects the words of these questions.
    pub fn of<'q>(questions: impl IntoIterator<Item = &'q str>) -> Self {
        let mut words = BTreeSet::new();
        let mut longest = 1;
        for question in questions {
            let found: Vec<String> = split(question).collect();
            longest = longest.max(found.len());
            words.extend(found);
        }
        Self {
            words: words.into_iter().collect(),
            longest: longest.min(LONGEST),
        }
    }

    /// Returns the count of numbers: words, padding and unknown.
    pub fn count(&self) -> usize {
        self.words.len() + FIRST as usize
    }

    /// Returns the count of numbers per question.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Returns whether the words are sorted and the question length is valid; a file may violate
    /// both.
    pub(super) fn is_sound(&self) -> bool {
        self.words.is_sorted() && (1..=LONGEST).contains(&self.longest)
    }

    /// Returns the numbers of a question, [`longest`](Self::longest) of them.
    pub fn numbers(&self, question: &str) -> Vec<u32> {
        let mut numbers: Vec<u32> = split(question)
            .map(|word| {
                self.words
                    .binary_search(&word)
                    .map_or(UNKNOWN, |index| index as u32 + FIRST)
            })
            .collect();
        let more = numbers.len().saturating_sub(self.longest);
        numbers.drain(..more);
        let mut padded = vec![PADDING; self.longest - numbers.len()];
        padded.append(&mut numbers);
        padded
    }
}

fn split(question: &str) -> impl Iterator<Item = String> {
    let words = question.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_padded_on_the_left_and_unknown_words_have_one_number() {
        let words = Words::of(["How many cubes?", "Are there big cubes; or spheres?"]);
        // are big cubes how many or spheres there
        assert_eq!((words.count(), words.longest()), (10, 6));
        assert_eq!(words.numbers("how MANY spheres"), [0, 0, 0, 5, 6, 8]);
        assert_eq!(words.numbers("big red cubes"), [0, 0, 0, 3, 1, 4]);
        assert_eq!(words.numbers("a b c d big cubes are there"), [1, 1, 3, 4, 2, 9]);
        assert_eq!(words.numbers(""), [0; 6]);
    }
}
