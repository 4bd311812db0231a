//! Noun phrases, such as "the large red cube that is left of the small sphere": as moulds with open
//! values, and filled for a scene.
//!
//! Filling draws values and executes the phrase's part of the program. It fails if *the* object is
//! not unique, or if a relation is redundant: without it the phrase would mean the same objects.

use super::attributes::{Attribute, Direction, Value};
use super::draws::Draws;
use super::family::Chain;
use super::program::{Execution, Function, Outcome};
use super::scene::{Objects, members};

/// A phrase without values: which attributes are named, and how the objects are linked.
#[derive(Clone, Debug)]
pub(super) struct Mould {
    /// In the order of [`Attribute::ALL`].
    named: [bool; 4],
    links: Vec<(LinkKind, Mould)>,
}

#[derive(Clone, Copy, Debug)]
enum LinkKind {
    Relation,
    Same(Attribute),
}

/// A link from a phrase's objects to another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Direction(Direction),
    Same(Attribute),
}

/// A description of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    /// In the order of [`Attribute::ALL`].
    pub(super) values: [Option<Value>; 4],
    /// None, one, or two that both hold.
    pub(super) links: Vec<(Link, Phrase)>,
}

impl Mould {
    /// Draws a mould for a chain; `open`, the attribute that is asked for, is not named.
    pub(super) fn draw(draws: &mut Draws, chain: Chain, open: Option<Attribute>) -> Self {
        let links = match chain {
            Chain::Hops(0) => Vec::new(),
            Chain::Hops(hops) => vec![(LinkKind::Relation, Self::draw(draws, Chain::Hops(hops - 1), None))],
            Chain::Both => vec![
                (LinkKind::Relation, Self::draw(draws, Chain::Hops(0), None)),
                (LinkKind::Relation, Self::draw(draws, Chain::Hops(0), None)),
            ],
            Chain::Same(attribute) => {
                // the shared value is not named
                let anchor = Self::draw(draws, Chain::Hops(0), Some(attribute));
                vec![(LinkKind::Same(attribute), anchor)]
            }
        };
        let shared = match chain {
            Chain::Same(attribute) => Some(attribute),
            Chain::Hops(_) | Chain::Both => None,
        };
        let free: Vec<Attribute> = Attribute::ALL
            .into_iter()
            .filter(|attribute| Some(*attribute) != open && Some(*attribute) != shared)
            .collect();
        let mut named = [false; 4];
        for attribute in &free {
            named[*attribute as usize] = draws.coin();
        }
        if links.is_empty() && named == [false; 4] {
            // "the thing" alone says nothing
            if let Some(attribute) = draws.pick(&free) {
                named[*attribute as usize] = true;
            }
        }
        Self { named, links }
    }

    /// Fills a phrase for any number of objects; also returns their step.
    pub(super) fn fill(&self, draws: &mut Draws, execution: &mut Execution<'_>) -> Option<(Phrase, usize)> {
        let wished = draws.coin();
        self.fill_with(draws, execution, wished, false)
    }

    /// Fills a phrase for one object; also returns its step.
    pub(super) fn fill_unique(&self, draws: &mut Draws, execution: &mut Execution<'_>) -> Option<(Phrase, usize)> {
        let (phrase, step) = self.fill_with(draws, execution, true, true)?;
        Some((phrase, execution.add(Function::Unique, &[step])?))
    }

    /// `present`: with the values of an existing object rather than any values.
    fn fill_with(
        &self,
        draws: &mut Draws,
        execution: &mut Execution<'_>,
        present: bool,
        unique: bool,
    ) -> Option<(Phrase, usize)> {
        let mut links = Vec::with_capacity(self.links.len());
        let mut sets = Vec::with_capacity(self.links.len());
        let mut anchors: Objects = 0;
        for (kind, mould) in &self.links {
            let (anchor, object) = mould.fill_unique(draws, execution)?;
            let (link, function) = match kind {
                LinkKind::Relation => {
                    let direction = Direction::ALL[draws.below(4)];
                    (Link::Direction(direction), Function::Relate(direction))
                }
                LinkKind::Same(attribute) => (Link::Same(*attribute), Function::Same(*attribute)),
            };
            if let (LinkKind::Same(_), Outcome::Object(object)) = (kind, execution.outcome(object)) {
                anchors |= 1 << object;
            }
            sets.push(execution.add(function, &[object])?);
            links.push((link, anchor));
        }
        let mut step = match sets[..] {
            [] => execution.add(Function::Scene, &[])?,
            [one] => one,
            [one, other, ..] => execution.add(Function::Intersect, &[one, other])?,
        };
        let candidates: Vec<usize> = members(execution.set(step)).collect();
        let model = match draws.pick(&candidates) {
            Some(object) if present => Some(execution.graph.look(*object)),
            _ if unique => return None,
            _ => None,
        };
        let mut values = [None; 4];
        let mut alike = execution.graph.all() & !anchors;
        for attribute in Attribute::ALL {
            if !self.named[attribute as usize] {
                continue;
            }
            let any = draws.below(attribute.values().len());
            let value = model.map_or(Value { attribute, index: any }, |look| look.value(attribute));
            values[attribute as usize] = Some(value);
            alike &= execution.graph.having(value);
            step = execution.add(Function::Filter(value), &[step])?;
        }
        let meant = execution.set(step);
        // each relation must narrow the set: without it other objects would be meant
        let says_something = match sets[..] {
            [] => true,
            [_] => meant != alike,
            _ => sets.iter().all(|set| meant != alike & execution.set(*set)),
        };
        says_something.then_some((Phrase { values, links }, step))
    }
}
