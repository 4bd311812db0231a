//! Families: the forms of questions, with everything open but what is asked, and how it is asked for.
//!
//! A family's number is its `question_family_index`. How objects are described is a [`Chain`]: by their attributes alone, through up to
//! three relations, each to an object that is described by the next, by two relations at once, or by sharing an attribute.

use super::attributes::Attribute;
use crate::clevr::QuestionType;

/// A type's share of all questions, about CLEVR's.
pub(super) fn share(question_type: QuestionType) -> f32 {
    match question_type {
        QuestionType::Exist => 0.135,
        QuestionType::Count => 0.24,
        QuestionType::CompareInteger => 0.09,
        QuestionType::QueryAttribute => 0.355,
        QuestionType::CompareAttribute => 0.18,
    }
}

/// The most relations that lead to what a question asks about.
pub const MAX_RELATIONS: usize = 3;

/// How objects are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// Through this many relations.
    Hops(usize),
    /// By two relations that both hold.
    Both,
    /// By sharing an attribute with an object.
    Same(Attribute),
}

impl Chain {
    fn relations(self) -> usize {
        match self {
            Self::Hops(relations) => relations,
            Self::Both => 2,
            Self::Same(_) => 1,
        }
    }
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    Greater,
}

/// A form of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Exist(Chain),
    Count(Chain),
    /// How many are either this or that.
    CountEither,
    Query(Attribute, Chain),
    /// Two objects, each described through up to one relation.
    CompareAttribute(Attribute, [usize; 2]),
    /// Two sets of objects, each described through up to one relation.
    CompareInteger(Comparison, [usize; 2]),
}

impl Family {
    pub(super) fn question_type(self) -> QuestionType {
        match self {
            Self::Exist(_) => QuestionType::Exist,
            Self::Count(_) | Self::CountEither => QuestionType::Count,
            Self::Query(..) => QuestionType::QueryAttribute,
            Self::CompareAttribute(..) => QuestionType::CompareAttribute,
            Self::CompareInteger(..) => QuestionType::CompareInteger,
        }
    }

    /// Relations that describe an object: of two that are compared, the more.
    pub(super) fn relations(self) -> usize {
        match self {
            Self::Exist(chain) | Self::Count(chain) | Self::Query(_, chain) => chain.relations(),
            Self::CountEither => 0,
            Self::CompareAttribute(_, [one, other]) | Self::CompareInteger(_, [one, other]) => one.max(other),
        }
    }
}

/// All families; the place is the number.
pub(super) fn families() -> Vec<Family> {
    const SIDES: [[usize; 2]; 4] = [[0, 0], [1, 0], [0, 1], [1, 1]];
    let chains: Vec<Chain> = (0..=MAX_RELATIONS)
        .map(Chain::Hops)
        .chain([Chain::Both])
        .chain(Attribute::ALL.map(Chain::Same))
        .collect();
    let mut families: Vec<Family> = chains.iter().map(|chain| Family::Exist(*chain)).collect();
    families.extend(chains.iter().map(|chain| Family::Count(*chain)));
    families.push(Family::CountEither);
    for attribute in Attribute::ALL {
        // what is shared is known
        let open = chains.iter().filter(|chain| **chain != Chain::Same(attribute));
        families.extend(open.map(|chain| Family::Query(attribute, *chain)));
    }
    for attribute in Attribute::ALL {
        families.extend(SIDES.map(|hops| Family::CompareAttribute(attribute, hops)));
    }
    for comparison in [Comparison::Equal, Comparison::Less, Comparison::Greater] {
        families.extend(SIDES.map(|hops| Family::CompareInteger(comparison, hops)));
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_families_and_the_shares_are_a_whole() {
        let families = families();
        let of = |kind| families.iter().filter(|family| family.question_type() == kind).count();
        assert_eq!(QuestionType::ALL.map(of), [9, 10, 12, 32, 16]);
        assert_eq!(
            families.iter().map(|family| family.relations()).max(),
            Some(MAX_RELATIONS)
        );
        let plain = |kind| {
            let of_kind = families.iter().filter(|family| family.question_type() == kind);
            of_kind.filter(|family| family.relations() == 0).count()
        };
        assert_eq!(QuestionType::ALL.map(plain), [1, 2, 3, 4, 4]);
        let sum: f32 = QuestionType::ALL.iter().map(|kind| share(*kind)).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
}
