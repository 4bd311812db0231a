//! Counts of right answers, in total and by type of question.

use serde::Serialize;

use crate::clevr::QuestionType;

/// A share of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The number of right answers.
    pub right: usize,
    /// The number of all answers.
    pub of: usize,
}

impl Share {
    /// Counts one answer.
    pub fn count(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// Returns the share of right answers, 0 to 1; 0 if there are no answers.
    pub fn accuracy(self) -> f64 {
        match self.of {
            0 => 0.0,
            of => self.right as f64 / of as f64,
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.accuracy())
    }
}

/// Right answers, in total and by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All questions, including questions of unknown type.
    pub overall: Share,
    by_type: [Share; QuestionType::ALL.len()],
}

impl Tally {
    /// Counts an answer.
    pub fn count(&mut self, kind: Option<QuestionType>, right: bool) {
        self.overall.count(right);
        let place = QuestionType::ALL.iter().position(|known| Some(*known) == kind);
        if let Some(place) = place {
            self.by_type[place].count(right);
        }
    }

    /// Returns each type with its share.
    pub fn by_type(&self) -> impl Iterator<Item = (QuestionType, Share)> {
        QuestionType::ALL.into_iter().zip(self.by_type)
    }
}
