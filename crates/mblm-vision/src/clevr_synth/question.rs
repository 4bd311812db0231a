//! Questions about a scene, with balanced answers.
//!
//! A type is drawn by its share, then a family of the type, then a mould, which fixes the named
//! attributes. The mould is filled many times with drawn values, and the answers on the scene are
//! recorded. It is used only if the answers differ (for yes-or-no questions, if both occur): an
//! answer is drawn evenly among those that occurred, then a filling with that answer. So for any
//! wording yes and no are equally likely, and so are values: the wording does not reveal the
//! answer.

use std::collections::HashSet;

use super::draws::Draws;
use super::family::{Comparison, Family, families, share};
use super::phrase::{Mould, Phrase};
use super::program::{Answer, Execution, Function, Outcome, Step};
use super::scene::Graph;
use super::text;
use crate::clevr::QuestionType;

/// The number of fillings of a mould.
const FILLINGS: usize = 48;

/// The number of moulds tried for a type before another type is drawn.
const MOULDS: usize = 40;

/// The number of types drawn per question before the scene is given up.
const TYPES: usize = 50;

/// A question about a scene.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) answer: Answer,
    pub(super) family: usize,
    pub(super) question_type: QuestionType,
    pub(super) program: Vec<Step>,
}

/// The phrases of a question, and its executed program.
type Filled<'a> = (Vec<Phrase>, Execution<'a>);

/// A generator of questions.
pub(super) struct Asker {
    families: Vec<Family>,
    shares: Vec<f32>,
    /// By type, the numbers of its families.
    by_type: Vec<Vec<usize>>,
}

impl Asker {
    /// Allows questions with up to this many relations.
    pub(super) fn new(max_relations: usize) -> Self {
        let families = families();
        let of = |kind: &QuestionType| {
            let numbers = 0..families.len();
            let is_asked = |number: &usize| {
                let family: Family = families[*number];
                family.question_type() == *kind && family.relations() <= max_relations
            };
            numbers.filter(is_asked).collect()
        };
        Self {
            by_type: QuestionType::ALL.iter().map(of).collect(),
            shares: QuestionType::ALL.iter().map(|kind| share(*kind)).collect(),
            families,
        }
    }

    /// Returns `count` different questions, or fewer if the scene yields no more.
    pub(super) fn ask(&self, draws: &mut Draws, graph: &Graph, count: usize) -> Vec<Question> {
        let mut questions = Vec::with_capacity(count);
        let (mut programs, mut texts) = (HashSet::new(), HashSet::new());
        for _ in 0..TYPES.saturating_mul(count) {
            if questions.len() == count {
                break;
            }
            let kind = draws.weighted(&self.shares);
            let question = (0..MOULDS).find_map(|_| {
                let number = *draws.pick(&self.by_type[kind])?;
                let question = self.one(draws, graph, number)?;
                let is_new = !programs.contains(&question.program) && !texts.contains(&question.text);
                is_new.then_some(question)
            });
            if let Some(question) = question {
                programs.insert(question.program.clone());
                texts.insert(question.text.clone());
                questions.push(question);
            }
        }
        questions
    }

    /// Returns a question of a family; None if a drawn mould does not give different answers.
    fn one(&self, draws: &mut Draws, graph: &Graph, number: usize) -> Option<Question> {
        let family = self.families[number];
        let moulds = moulds(draws, family);
        let mut by_answer: Vec<(Answer, Vec<Filled<'_>>)> = Vec::new();
        for _ in 0..FILLINGS {
            let mut execution = Execution::new(graph);
            let Some(phrases) = fill(draws, &mut execution, family, &moulds) else {
                continue;
            };
            let Some(answer) = execution.answer() else {
                continue;
            };
            match by_answer.iter_mut().find(|(other, _)| *other == answer) {
                Some((_, filled)) => filled.push((phrases, execution)),
                None => by_answer.push((answer, vec![(phrases, execution)])),
            }
        }
        if by_answer.len() < 2 {
            return None;
        }
        let (answer, mut filled) = by_answer.swap_remove(draws.below(by_answer.len()));
        let (phrases, execution) = filled.swap_remove(draws.below(filled.len()));
        Some(Question {
            text: text::ask(draws, family, &phrases),
            answer,
            family: number,
            question_type: family.question_type(),
            program: execution.into_steps(),
        })
    }
}

fn moulds(draws: &mut Draws, family: Family) -> Vec<Mould> {
    use super::family::Chain::Hops;
    match family {
        Family::Exist(chain) | Family::Count(chain) => vec![Mould::draw(draws, chain, None)],
        Family::CountEither => (0..2).map(|_| Mould::draw(draws, Hops(0), None)).collect(),
        Family::Query(attribute, chain) => vec![Mould::draw(draws, chain, Some(attribute))],
        Family::CompareAttribute(attribute, hops) => hops
            .iter()
            .map(|hops| Mould::draw(draws, Hops(*hops), Some(attribute)))
            .collect(),
        Family::CompareInteger(_, hops) => hops.iter().map(|hops| Mould::draw(draws, Hops(*hops), None)).collect(),
    }
}

/// Fills the moulds of a family and adds its own step; None if the question would be ambiguous or
/// trivial.
fn fill(draws: &mut Draws, execution: &mut Execution<'_>, family: Family, moulds: &[Mould]) -> Option<Vec<Phrase>> {
    let unique = matches!(family, Family::Query(..) | Family::CompareAttribute(..));
    let (mut phrases, mut steps) = (Vec::with_capacity(2), Vec::with_capacity(2));
    for mould in moulds {
        let (phrase, step) = match unique {
            true => mould.fill_unique(draws, execution)?,
            false => mould.fill(draws, execution)?,
        };
        phrases.push(phrase);
        steps.push(match family {
            Family::CompareInteger(..) => execution.add(Function::Count, &[step])?,
            _ => step,
        });
    }
    match (family, &steps[..]) {
        (Family::Exist(_), [set]) => execution.add(Function::Exist, &[*set])?,
        (Family::Count(_), [set]) => execution.add(Function::Count, &[*set])?,
        (Family::Query(attribute, _), [object]) => execution.add(Function::Query(attribute), &[*object])?,
        (Family::CountEither, [one, other]) => {
            let (left, right) = (execution.set(*one), execution.set(*other));
            // a subset of the other set adds nothing
            if left & !right == 0 || right & !left == 0 {
                return None;
            }
            let either = execution.add(Function::Union, &[*one, *other])?;
            execution.add(Function::Count, &[either])?
        }
        (Family::CompareAttribute(attribute, _), [one, other]) => {
            if execution.outcome(*one) == execution.outcome(*other) {
                return None;
            }
            let first = execution.add(Function::Query(attribute), &[*one])?;
            let second = execution.add(Function::Query(attribute), &[*other])?;
            execution.add(Function::Equal(attribute), &[first, second])?
        }
        (Family::CompareInteger(comparison, _), [one, other]) => {
            let none = Outcome::Number(0);
            let both_empty = execution.outcome(*one) == none && execution.outcome(*other) == none;
            if both_empty || phrases[0] == phrases[1] {
                return None;
            }
            let function = match comparison {
                Comparison::Equal => Function::EqualInteger,
                Comparison::Less => Function::LessThan,
                Comparison::Greater => Function::GreaterThan,
            };
            execution.add(function, &[*one, *other])?
        }
        _ => return None,
    };
    Some(phrases)
}
