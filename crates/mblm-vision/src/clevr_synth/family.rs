//! Families: the forms of questions. A family fixes what is asked and how its objects are
//! described.
//!
//! A family's number is its `question_family_index`. A [`Chain`] is the description of objects: by
//! their attributes alone, through up to three relations in a row, by two relations at once, or by
//! an attribute shared with an object.

use super::attributes::Attribute;
use crate::clevr::QuestionType;

/// Returns a type's share of all questions, about CLEVR's.
pub(super) fn share(question_type: QuestionType) -> f32 {
    match question_type {
        QuestionType::Exist => 0.135,
        QuestionType::Count => 0.24,
        QuestionType::CompareInteger => 0.09,
        QuestionType::QueryAttribute => 0.355,
        QuestionType::CompareAttribute => 0.18,
    }
}

/// The largest number of relations in the description of an object.
pub const MAX_RELATIONS: usize = 3;

/// The description of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// Through this many relations in a row.
    Hops(usize),
    /// By two relations that both hold.
    Both,
    /// By an attribute shared with an object.
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

/// A comparison of two numbers.
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
    /// The number of objects in either of two sets.
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

    /// Returns the relations that describe an object; of two compared objects, the larger number.
    pub(super) fn relations(self) -> usize {
        match self {
            Self::Exist(chain) | Self::Count(chain) | Self::Query(_, chain) => chain.relations(),
            Self::CountEither => 0,
            Self::CompareAttribute(_, [one, other]) | Self::CompareInteger(_, [one, other]) => one.max(other),
        }
    }
}

/// Returns all families; the index is the number.
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
        // the shared attribute is known
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
