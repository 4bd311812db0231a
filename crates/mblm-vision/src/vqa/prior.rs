//! What can be answered without looking at the image: for each template of questions the answer that was most frequent in
//! training, for an unknown template that of its type.

use std::collections::HashMap;

use crate::clevr::{Question, QuestionType};

/// The most frequent answer of each template.
pub struct Prior {
    answers: HashMap<Group, Box<str>>,
}

/// Questions that get the same answer.
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
    /// From the questions of the training split; of answers that are equally frequent the first in alphabetical order.
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

    /// The answer to a question of this template and type; `None` if training has none of either.
    pub fn answer(&self, family: Option<u32>, kind: Option<QuestionType>) -> Option<&str> {
        Group::of(family, kind)
            .find_map(|group| self.answers.get(&group))
            .map(|answer| &**answer)
    }
}
