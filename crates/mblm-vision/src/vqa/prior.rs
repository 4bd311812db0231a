//! A baseline without the image: the most frequent training answer of a question's template or, for
//! an unknown template, of its type.

use std::collections::HashMap;

use crate::clevr::{Question, QuestionType};

/// The most frequent answer of each template.
pub struct Prior {
    answers: HashMap<Group, Box<str>>,
}

/// The questions that get the same answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Group {
    Family(u32, Option<QuestionType>),
    Type(Option<QuestionType>),
}

impl Group {
    fn of(family: Option<u32>, kind: Option<QuestionType>) -> impl Iterator<Item = Self> {
        family
            .map(|family| Self::Family(family, kind))
            .into_iter()
            .chain([Self::Type(kind)])
    }
}

impl Prior {
    /// Counts the questions of the training split; of equally frequent answers the alphabetically
    /// first wins.
    pub fn new(questions: &[Question]) -> Self {
        let mut counts: HashMap<Group, HashMap<&str, usize>> = HashMap::new();
        for question in questions {
            for group in Group::of(question.family, question.kind) {
                *counts.entry(group).or_default().entry(&question.answer).or_default() += 1;
            }
        }
        let most = |answers: HashMap<&str, usize>| {
            let most = answers.into_iter().max_by(|(a, x), (b, y)| x.cmp(y).then(b.cmp(a)));
            most.map_or_else(Box::default, |(answer, _)| answer.into())
        };
        Self {
            answers: counts
                .into_iter()
                .map(|(group, answers)| (group, most(answers)))
                .collect(),
        }
    }

    /// Returns the answer for a template and type; `None` if training has neither.
    pub fn answer(&self, family: Option<u32>, kind: Option<QuestionType>) -> Option<&str> {
        Group::of(family, kind)
            .find_map(|group| self.answers.get(&group))
            .map(|answer| &**answer)
    }
}
